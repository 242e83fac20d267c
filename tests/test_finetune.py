"""The loop's invariants, on the tiny SD3 and through the real command line where processes and signals matter."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rewards_for_tests
import safetensors.torch
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from reward_server_for_tests import reward_server
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_runs import log, tuned

from reward_models import load as load_reward
from rlhf_images import checkpoint, recorded
from rlhf_images import finetune as finetuning
from rlhf_images.algorithms import ALGORITHMS, NFT
from rlhf_images.algorithms.grpo import GRPO
from rlhf_images.cli import run as command
from rlhf_images.config import build, plain
from rlhf_images.errors import Alarmed, BadInput, Interrupted, NonFinite, NotSaved, RewardFailed
from rlhf_images.evaluate import evaluate
from rlhf_images.finetune import finetune
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.generators.tiny import build as build_pipeline
from rlhf_images.reward import Capabilities, Reward, Scores
from rlhf_images.runs import read_record

PROMPTS = ["a handwritten one", "a handwritten two", "a handwritten six"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    sizes = TinyConfig(layers=2, heads=1, channels=(8, 16), text_tokens=6)
    pipe = build_pipeline(sizes, 16, PROMPTS, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(pipe.transformer.parameters()):  # diffusers starts the output layer at zero
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def config(generator, tmp_path):
    return {
        "generator": {"path": str(generator), "steps": 3, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "reward": "rewards_for_tests:brightness",
        "out": str(tmp_path / "run"),
        "steps": 4,
        "prompts_per_step": 3,
        "group_size": 4,
        "updates_per_step": 2,
        "micro_size": 12,
        "algorithm": {"name": "nft", "times_per_image": 2, "kl_weight": 0.01, "decay_rate": 0.2},
        "lora": {"rank": 2, "alpha": 4},
        "optimizer": {"lr": 3e-3},
        "average_decay": 0.5,
        "checkpoint_every": 2,
        "evaluation": {"prompts": PROMPTS, "seeds_per_prompt": 2, "every": 2},
    }


def run(config, **changes):
    values = {**config, **changes}
    finetune(build(FinetuneConfig, values, "test"), load_reward)
    return result(values["out"])


def result(out):
    """Weights, and the log without its times."""
    return load_file(Path(out) / "pytorch_lora_weights.safetensors"), log(out)


def assert_same(first, second, tolerance):
    """Same weights and same log. Adam turns rounding in a tiny gradient into 1e-5 of weight, so 0 is asked for only
    where the arithmetic is the same, and losses and gradient norms in the log catch what Adam's scale would hide."""
    assert first[0].keys() == second[0].keys()
    for name, value in first[0].items():
        torch.testing.assert_close(second[0][name], value, rtol=0, atol=tolerance)
    assert len(first[1]) == len(second[1])
    for a, b in zip(first[1], second[1], strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=max(10 * tolerance, 1e-12))


def same_checkpoint(first, second):
    """Weights, every snapshot, the optimiser and the statistics, bit by bit."""
    names = ("manifest.json", "state.json", "tensors.safetensors")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.fixture
def uninterrupted(config, tmp_path):
    return run(config, out=str(tmp_path / "uninterrupted"))


def test_the_weights_move_and_the_same_run_is_the_same(config, uninterrupted):
    again = run(config)
    assert_same(uninterrupted, again, 0)
    assert any(value.abs().max() > 0 for name, value in again[0].items() if "lora_B" in name)
    assert [row["step"] for row in again[1]] == [1, 2, 3, 4]
    efficiency = json.loads(Path(config["out"], "run.json").read_text())["efficiency"]
    assert 0 < efficiency["fraction"] < 1
    assert efficiency["flops_per_step"] > 0
    evaluated = [json.loads(line)["step"] for line in Path(config["out"], "evaluations.jsonl").read_text().splitlines()]
    assert evaluated == [0, 2, 4]

    out, card, page = Path(config["out"]), Path(config["out"], "README.md"), Path(config["out"], "report.html")
    before = {path: path.read_bytes() for path in (card, page)}
    card.unlink()
    page.write_text("as a kill leaves it that comes when the run has ended and its page is not yet written")
    os.utime(page, ns=(0, 0))
    run(config)
    assert {path: path.read_bytes() for path in before} == before
    written = page.stat().st_mtime_ns
    assert run(config)[1] == again[1]
    assert page.stat().st_mtime_ns == written
    assert [path.name for path in out.glob(".*")] == []


def test_every_evaluation_leaves_its_pictures_scores_and_adapters(config, uninterrupted):
    out = Path(config["out"]).parent / "uninterrupted"
    found = recorded.of_run(out)
    assert [(one.step, one.names, one.kept) for one in found] == [(s, PROMPTS, list(range(6))) for s in (0, 2, 4)]
    logged = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    for one, row in zip(found, logged, strict=True):
        assert row["reward"] == pytest.approx(one.scores["reward"].mean(), abs=1e-6)
        assert one.image(5).mean() == pytest.approx(one.scores["reward"][5], abs=1 / 255)
    assert logged[0]["distance"] == pytest.approx(0, abs=1e-9)
    assert 0 < logged[1]["distance"] < logged[2]["distance"]
    assert not list(found[0].folder.glob("*lora*"))
    last, tuned = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (found[2].folder, out))
    assert last.keys() == tuned.keys()
    assert all(torch.equal(last[name], tuned[name]) for name in last)
    assert not torch.equal(
        *(next(iter(load_file(one.folder / "pytorch_lora_weights.safetensors").values())) for one in found[1:])
    )


def test_the_page_of_a_run_is_there_from_the_first_evaluation_on_and_names_the_best(config, monkeypatch):
    """Held-out contrast chooses the checkpoint; every page is written while the run goes on."""
    from rlhf_images.report.of_run import content_of
    from rlhf_images.report.of_run import report as write

    pages = []

    def kept(folder):
        pages.append(content_of(folder))
        return write(folder)

    monkeypatch.setattr(sys.modules["rlhf_images.tuning"], "refresh", kept)
    run(config, evaluation={**config["evaluation"], "judges": {"contrast": "contrast"}, "deciding": "contrast"})
    out = Path(config["out"])
    assert [page.unfinished for page in pages] == ["step 0 of 4", "step 2 of 4", "step 4 of 4", ""]
    assert [[column.name for column in page.columns] for page in pages] == [
        ["base"], ["base", "step 2"], ["base", "step 2", "step 4"], ["base", "step 2", "step 4"],
    ]  # fmt: skip
    ended = content_of(out)
    assert ended.unfinished == ""
    rows = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    chosen = max(rows[1:], key=lambda row: row["contrast"])
    assert ended.best["step"] == chosen["step"]
    weights = recorded.place(out, chosen["step"]) / "pytorch_lora_weights.safetensors"
    assert (out / "best" / weights.name).read_bytes() == weights.read_bytes()
    assert ended.summary["contrast_base"] == pytest.approx(rows[0]["contrast"], abs=1e-6)
    assert ended.summary["contrast_step 4"] == pytest.approx(rows[2]["contrast"], abs=1e-6)
    assert f"step {chosen['step']}" in (out / "report.html").read_text()
    evaluate(config["out"], load_reward)
    compared = content_of(out)
    assert compared.names == ("base", "tuned")
    assert len(compared.compared) == 3 * 24
    assert [column.name for column in compared.columns] == ["base", "step 2", "step 4"]


def test_a_run_stops_on_an_alarm_if_told_and_goes_on_in_spite_of_it(config, tmp_path, capsys):
    hacked = {"reward": "rewards_for_tests:Light", "algorithm": {"name": "draft"}, "steps": 6, "lora": None}
    judged = config["evaluation"] | {"every": 1, "judges": {"dark": "rewards_for_tests:darkness"}}
    config |= hacked | {"evaluation": judged, "optimizer": {"lr": 2e-2}}
    finetune(build(FinetuneConfig, config, "test"), load_reward)
    alarms = json.loads((tmp_path / "run" / "alarms.json").read_text())
    alarm = next(alarm for alarm in alarms if alarm["name"] == "worse by a held-out judge")
    told = capsys.readouterr().out
    assert f"ALARM after step {alarm['step']}, worse by a held-out judge: the held-out judge 'dark' fell" in told
    stopping = build(FinetuneConfig, {**config, "out": str(tmp_path / "stopped"), "stop_on_alarm": True}, "test")
    for step in sorted({alarm["step"] for alarm in alarms} - {6}):
        with pytest.raises(Alarmed, match=f"step {step} is saved"):
            finetune(stopping, load_reward)
    finetune(stopping, load_reward)
    first, second = (sorted((tmp_path / name / "transformer").glob("*.safetensors")) for name in ("run", "stopped"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_micro_size_changes_nothing(config, uninterrupted):
    assert_same(uninterrupted, run(config, micro_size=1), 1e-4)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_stopped_and_resumed_is_never_stopped(config, tmp_path, full):
    changes = {"lora": None} if full else {}
    config["reward"] = "rewards_for_tests:terminated_in_third_call"
    rewards_for_tests.terminated_in_third_call.calls = -1  # one call is the evaluation at step 0
    values = {**config, **changes}
    with pytest.raises(Interrupted) as stop:
        finetune(build(FinetuneConfig, values, "test"), load_reward)
    assert stop.value.exit_code == 128 + 15
    kept = sorted(path.name for path in Path(config["out"], "checkpoints").iterdir())
    assert "step_00000003" in kept
    whole = {**values, "out": str(tmp_path / "whole")}
    for value in (values, whole):
        rewards_for_tests.terminated_in_third_call.calls = 100
        finetune(build(FinetuneConfig, value, "test"), load_reward)
    if full:
        weights = [load_file(next(Path(v["out"]).glob("transformer/*.safetensors"))) for v in (values, whole)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    else:
        assert_same(result(whole["out"]), result(values["out"]), 0)


def test_what_a_checkpoint_and_the_end_speak_of_is_on_disk_before_them(config, monkeypatch):
    """What a power cut would take is what was written to a file since it was last synced."""
    out, synced, seen = Path(config["out"]), dict[int, int](), list[str]()
    sync, rename = os.fsync, os.replace

    def syncing(descriptor):
        sync(descriptor)
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_size

    def renaming(source, target, **options):
        logs = ["metrics.jsonl", "evaluations.jsonl"]
        finished = Path(target).name == "run.json" and '"finished": true' in Path(source).read_text()
        due = logs if finished or Path(target).parent == out / "checkpoints" else []
        for name in [*due, "pytorch_lora_weights.safetensors"] if finished else due:
            found = (out / name).stat()
            assert synced.get(found.st_ino) == found.st_size > 0, name
        seen.append("end" if finished else "checkpoint" if due else "other")
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", renaming)
    run(config)
    assert seen.count("checkpoint") == 2
    assert seen.count("end") == 1


def test_rows_logged_after_the_last_checkpoint_are_not_logged_twice(config, uninterrupted):
    """As after a SIGKILL: the log is ahead of the newest checkpoint, and its last line is torn."""
    run(config, steps=4)
    out = Path(config["out"])
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "finished": False}))
    for path in (out / "checkpoints").glob("step_00000004"):
        (path / "manifest.json").unlink()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    shutil.copytree(recorded.place(out, 4), recorded.place(out, 5))
    shutil.copytree(recorded.place(out, 4), out / "evaluations" / ".step_000004.4711")
    for name in (".report.html.4711", "samples/.step_000004.png.4711", ".best.json.4712"):
        (out / name).write_text("half of")
    assert_same(uninterrupted, run(config), 0)
    assert [one.step for one in recorded.of_run(out)] == [0, 2, 4]
    assert [path.name for path in out.rglob(".*")] == []


RUNS = {
    **{name: {} for name in ALGORITHMS},
    "awm": {"lag_rate": 0.2},
    "grpo": {"window": {"size": 1, "placed": "sliding", "every": 2}},
    "grpo_guard": {"kernel": "cps", "window": {"size": 1, "placed": "random"}},
    "dppo": {"kernel": "dance_sde"},
    "draft": {"last_steps": 2},
    "nft": {"times_per_image": 2, "kl_weight": 0.01, "decay_rate": 0.2},
}
"""Every algorithm, with settings that would tell if a step, a snapshot or a rank were forgotten."""


def of(config, name, tmp_path, purpose):
    differentiable = {"reward": "rewards_for_tests:Light"} if ALGORITHMS[name].differentiates_reward else {}
    algorithm = {"name": name, **RUNS[name]}
    return {**config, **differentiable, "algorithm": algorithm, "out": str(tmp_path / purpose / name)}


@pytest.mark.parametrize(("name", "full"), [(name, i % 2 == 1) for i, name in enumerate(ALGORITHMS)])
def test_every_algorithm_continues_as_if_never_stopped(config, tmp_path, name, full):
    """Its last checkpoint is lost, and its log is ahead of the one before; every second one trains all weights."""
    values = of(config, name, tmp_path, "run") | ({"lora": None} if full else {})
    finetune(build(FinetuneConfig, values, "test"), load_reward)
    out, whole = Path(values["out"]), tmp_path / "whole"
    shutil.copytree(out, whole)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "finished": False}))
    (out / "checkpoints" / "step_00000004" / "manifest.json").unlink()
    expected = tuned(whole)
    assert any(any(value) for part, value in expected.items() if full or "lora_B" in part)
    next(out.glob("transformer/*.safetensors" if full else "pytorch_lora_weights.safetensors")).unlink()
    finetune(build(FinetuneConfig, values, "test"), load_reward)
    assert tuned(out) == expected
    assert log(out) == log(whole)
    assert same_checkpoint(*(max((folder / "checkpoints").iterdir()) for folder in (out, whole)))


MIXTURE = {"rewards_for_tests:brightness": 1.0, "diversity": 0.5}


def test_the_script_is_launched_as_the_readme_says(config, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "scripts/finetune.py", str(file), "steps=1"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:tests"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(result(config["out"])[1]) == 1


def test_one_picture_a_prompt_is_compared_with_its_prompt_s_past(config):
    """DDPO's way: groups of one, with the statistics in the checkpoint."""
    changes = {"group_size": 1, "advantage": "per_prompt", "algorithm": {"name": "ddpo"}, "updates_per_step": 3}
    _, rows = run(config, **changes, prompt_statistics={"buffer": 4, "min_count": 2})
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["grad_norm"] > 0
    state = json.loads((Path(config["out"]) / "checkpoints" / "step_00000004" / "state.json").read_text())
    assert {prompt: len(scores) for prompt, scores in state["prompt_statistics"].items()} == dict.fromkeys(PROMPTS, 4)


def test_groups_that_say_nothing_are_left_out_and_counted(config):
    _, rows = run(config, reward="rewards_for_tests:constant", steps=1)
    assert rows[0]["frac_reward_zero_std"] == 1
    assert "loss" not in rows[0]
    assert not any(value.abs().max() > 0 for part, value in result(config["out"])[0].items() if "lora_B" in part)


class Companies(Reward):
    """Compares a picture with the brightest of its group; keeps what it was shown together."""

    can = Capabilities(groupwise=True)

    def __init__(self):
        self.seen = []

    def score(self, *, images, prompts):
        """Return each picture's share of the brightest one's light."""
        light = images.mean((1, 2, 3))
        self.seen.append(light)
        return Scores.of(light / light.max())


def test_the_same_prompt_twice_in_a_step_is_two_groups(config, monkeypatch):
    """Pictures are compared with those of their own draw: groups go by index, not by text."""
    shown, compared, made = Companies(), [], []
    scored, advantages = finetuning.Scored, finetuning._advantages
    monkeypatch.setattr(finetuning, "Scored", lambda *parts: made.append(parts) or scored(*parts))
    monkeypatch.setattr(finetuning, "_advantages", lambda *parts: compared.append(parts) or advantages(*parts))
    values = {**config, "prompts": PROMPTS[:1], "steps": 1, "advantage": "centred"}
    values["evaluation"] = {**config["evaluation"], "prompts": PROMPTS[:1]}
    finetune(build(FinetuneConfig, values, "test"), lambda _: shown)
    groups = torch.stack([light for light in shown.seen if len(light) == config["group_size"]])
    assert compared[0][1] == PROMPTS[:1] * 3
    rewards_PK, _, advantages_PK, *_ = made[0]
    torch.testing.assert_close(rewards_PK, groups / groups.amax(1, keepdim=True))
    torch.testing.assert_close(advantages_PK, rewards_PK - rewards_PK.mean(1, keepdim=True))
    assert not torch.allclose(advantages_PK, rewards_PK - rewards_PK.mean())


def test_a_weighted_sum_is_measured_on_the_base_and_means_the_same_ever_after(config, tmp_path):
    """0 ± 1 of each part on the base's pictures; the same reference after a resume and in the evaluation."""
    config |= {"reward": MIXTURE, "steps": 2, "checkpoint_every": 1}
    whole = run(config, out=str(tmp_path / "whole"))
    kept = json.loads((tmp_path / "whole" / "references.json").read_text())
    assert kept.keys() == MIXTURE.keys()
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["scored_by"].startswith("weighted-")
    assert len(kept["diversity"]) == len(PROMPTS) * 2
    base = json.loads((tmp_path / "whole" / "evaluations.jsonl").read_text().splitlines()[0])
    assert base["reward"] == pytest.approx(0, abs=1e-4)
    brightness, diverse = (torch.tensor(kept[name]) for name in MIXTURE)
    parts = [whole[1][0][f"reward/{name}"] for name in MIXTURE]
    expected = (parts[0] - brightness.mean()) / brightness.std() + 0.5 * (parts[1] - diverse.mean()) / diverse.std()
    assert whole[1][0]["reward"] == pytest.approx(float(expected), abs=1e-3)

    run(config)
    record = json.loads((Path(config["out"]) / "run.json").read_text())
    (Path(config["out"]) / "run.json").write_text(json.dumps(record | {"finished": False}))
    (Path(config["out"]) / "checkpoints" / "step_00000002" / "manifest.json").unlink()
    assert_same(whole, run(config), 0)
    evaluate(config["out"], load_reward)
    summary = json.loads((Path(config["out"]) / "summary.json").read_text())
    assert summary["reward_base"] != summary["reward_tuned"]
    (Path(config["out"]) / "references.json").unlink()
    with pytest.raises(BadInput, match="this run never measured it"):
        evaluate(config["out"], load_reward)


def test_a_run_does_not_continue_under_another_reward(config, tmp_path, monkeypatch):
    """The name in the config is the same; what it stands for is not."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    config |= {"reward": "a_reward_that_changes:mine", "steps": 2, "checkpoint_every": 1}
    out = Path(config["out"])
    for body, again in (("images.mean((1, 2, 3))", False), ("images.amax((1, 2, 3))", True)):
        (tmp_path / "a_reward_that_changes.py").write_text(f"def mine(images, prompts):\n    return {body}\n")
        sys.modules.pop("a_reward_that_changes", None)
        importlib.invalidate_caches()
        if not again:
            run(config)
            record = json.loads((out / "run.json").read_text())
            (out / "run.json").write_text(json.dumps(record | {"finished": False}))
            (out / "checkpoints" / "step_00000002" / "manifest.json").unlink()
            before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        else:
            with pytest.raises(BadInput, match="first 1 steps were scored by mine-"):
                run(config)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_part_that_says_nothing_cannot_be_normalised(config):
    with pytest.raises(BadInput, match=r"'rewards_for_tests:constant': gives .* 6 pictures 1 different scores"):
        run(config, reward={"rewards_for_tests:constant": 1.0, "brightness": 1.0})
    assert not Path(config["out"]).exists()  # nothing was written: a corrected config starts there


def test_an_ensemble_is_a_reward(config):
    row = run(config, reward=["rewards_for_tests:brightness", "brightness"], steps=1)[1][0]
    members = [row[f"reward/member {i}"] for i in range(2)]
    assert row["reward"] == pytest.approx(sum(members) / 2, abs=1e-6)


def test_a_failed_reward_stops_with_its_own_code_and_evidence(config):
    with pytest.raises(RewardFailed, match="tolerated_failures") as stop:
        run(config, reward="rewards_for_tests:broken")
    assert stop.value.exit_code == 4
    assert list(Path(config["out"], "refused").glob("*.safetensors"))
    assert not Path(config["out"], "pytorch_lora_weights.safetensors").exists()


def test_failures_within_the_budget_are_masked(config):
    _, sound = run(config, steps=1)
    _, rows = run(config, out=config["out"] + "2", reward="rewards_for_tests:broken", tolerated_failures=0.5, steps=1)
    assert rows[0]["reward_failures"] == 1
    for name in ("reward", "reward_p10", "reward_std"):  # pictures of about equal brightness: a 0 among them would tell
        assert rows[0][name] == pytest.approx(sound[0][name], abs=0.02)


WRITES = ["first evaluation", "first checkpoint", "second evaluation", "second checkpoint", "tuned weights"]


@pytest.mark.parametrize("number", range(1, 6), ids=WRITES)
def test_a_full_disk_stops_the_run_and_the_same_command_continues(config, uninterrupted, monkeypatch, number):
    """At each of the run's writes of weights."""
    left = [number]

    def full(save):
        def refused(tensors, path, *arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                Path(path).write_bytes(b"half of")
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            save(tensors, path, *arguments, **options)

        return refused

    monkeypatch.setattr(checkpoint, "save_file", full(checkpoint.save_file))
    monkeypatch.setattr(safetensors.torch, "save_file", full(safetensors.torch.save_file))
    with pytest.raises(NotSaved, match="No space left") as stop:
        run(config)
    assert stop.value.exit_code == 5
    assert not list(Path(config["out"], "checkpoints").glob(".staged*"))
    assert_same(uninterrupted, run(config), 0)


def test_a_reward_server_that_fails_costs_pictures_then_the_run(config, tmp_path, capsys):
    """12 pictures are 3 questions: 2 in the evaluation at step 0, then 3 a step; one picture has no score in step 1."""
    plan = {2: "type: nan"}
    with reward_server(lambda number: "500" if number >= 8 else plan.get(number, "right")) as (address, _):
        remote = {"reward": f"remote@{address}?attempts=1", "evaluation": {**config["evaluation"], "every": 4}}
        with pytest.raises(RewardFailed, match=r"failed on 1 of 12 pictures.* allows 0%"):
            run(config, **remote, out=str(tmp_path / "strict"))
    with reward_server(lambda number: "500" if number >= 8 else plan.get(number, "right")) as (address, _):
        remote["reward"] = f"remote@{address}?attempts=1"
        values = {**config, **remote, "tolerated_failures": 0.1}
        (tmp_path / "config.yaml").write_text(json.dumps(values))
        assert command(["finetune", str(tmp_path / "config.yaml")]) == 4
    said = capsys.readouterr()
    assert "no score for 1 of 12 pictures" in said.out
    assert "the reward failed on 12 of 12 pictures" in said.err
    rows = [json.loads(line) for line in Path(config["out"], "metrics.jsonl").read_text().splitlines()]
    assert [row["reward_failures"] for row in rows] == [1, 0]
    _, sound = run(config, steps=1, out=str(tmp_path / "sound"))
    assert rows[0]["reward"] == pytest.approx(sound[0]["reward"], abs=0.02)  # a 0 among them would tell
    assert list(Path(config["out"], "refused").glob("*.safetensors"))


def test_pictures_that_are_not_finite_stop_the_run(config, generator, tmp_path):
    poisoned = tmp_path / "poisoned"
    shutil.copytree(generator, poisoned)
    file = next((poisoned / "vae").glob("*.safetensors"))
    weights = load_file(file)
    weights["decoder.conv_out.bias"].fill_(torch.nan)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(NonFinite) as stop:
        run(config, generator={**config["generator"], "path": str(poisoned)})
    assert stop.value.exit_code == 3


def test_a_training_step_that_is_not_finite_is_refused_with_evidence(config, monkeypatch):
    """The pictures of the evaluation are sound, those of the first rollout are not."""
    rollout = NFT.rollout

    def poisoned(*arguments):
        drawn = rollout(*arguments)
        drawn.images[3] = torch.nan
        return drawn

    monkeypatch.setattr(NFT, "rollout", poisoned)
    with pytest.raises(NonFinite, match="1 sampled pictures"):
        run(config)
    assert list(Path(config["out"], "refused").glob("*.safetensors"))


def test_a_retrained_generator_is_not_taken_for_the_one_before(config, generator):
    record = generator / "run.json"
    record.write_text('{"stage": "pretrain", "config": {}, "seconds": 1, "finished": true}')
    try:
        run(config, steps=1)
        run(config, steps=1, micro_size=2)  # may change
        record.write_text('{"stage": "pretrain", "config": {}, "seconds": 2, "finished": true}')
        with pytest.raises(BadInput, match="what lies in"):
            run(config, steps=1)
    finally:
        record.unlink()


def test_another_config_is_refused_and_nothing_is_touched(config):
    run(config, steps=1)
    before = {path: path.read_bytes() for path in Path(config["out"]).rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match=r"optimizer.weight_decay 0.0001→0.1"):
        run(config, steps=1, optimizer={"lr": 3e-3, "weight_decay": 0.1})
    assert before == {path: path.read_bytes() for path in Path(config["out"]).rglob("*") if path.is_file()}
    run(config, steps=1)  # finished: says so and returns


def test_more_steps_continue_a_finished_run_as_if_all_had_been_asked_for_at_once(config, tmp_path):
    whole = run(config, out=str(tmp_path / "whole"))
    run(config, steps=2)
    assert_same(whole, run(config), 0)
    checkpoints = [Path(out) / "checkpoints" / "step_00000004" for out in (config["out"], tmp_path / "whole")]
    assert same_checkpoint(*checkpoints)
    assert read_record(config["out"])["changes"] == {"after step 2": ["steps 2→4"]}
    with pytest.raises(BadInput, match="steps 3, but 4 are done"):
        run(config, steps=3)


def test_a_judge_that_is_none_is_refused_before_the_training_and_not_after_it(config):
    with pytest.raises(BadInput, match="no judge 'legible'"):
        run(config, evaluation={**config["evaluation"], "deciding": "legible"})


def test_sizes_that_do_not_go_together_are_refused(config):
    with pytest.raises(BadInput, match="does not divide group_size"):
        build(FinetuneConfig, {**config, "updates_per_step": 3}, "test")
    built = build(FinetuneConfig, config, "test")
    assert build(FinetuneConfig, plain(built), "again") == built


REFUSED = {
    "group of one": ({"group_size": 1, "updates_per_step": 1}, "nothing to compare"),
    "window too long": ({"algorithm": {"name": "grpo", "window": {"size": 3}}}, "a window of 3 does not fit"),
    "no such layer": ({"lora": {"target_modules": ["to_qq"]}}, "no layer 'to_qq'; did you mean 'to_q'"),
    "no gradient": ({"algorithm": {"name": "draft"}}, "needs the gradient of the reward"),
    "last steps": ({"algorithm": {"name": "draft", "last_steps": 9}}, "more than the 3 sampling steps"),
    "no such algorithm": ({"algorithm": {"name": "gpro"}}, "did you mean 'grpo'"),
    "no such reward": ({"reward": "bodl"}, "reward 'bodl': .* did you mean 'bold'"),
    "half precision": ({"lora": None, "dtype": "bfloat16"}, "needs 'generator.dtype: float32'"),
    "unknown setting": ({"call": {"max_sequence_len": 6}}, "did you mean 'max_sequence_length'"),
    "no such tracker": ({"trackers": ["tensorbord"]}, "did you mean 'tensorboard'"),
    "scheduler": ({"scheduler": {"_class_name": "ScoreSdeVeScheduler"}}, "neither a rectified flow nor a discrete"),
    "no scheduler": ({"scheduler": {"_class_name": "Nobody's"}}, "its scheduler is no class of diffusers"),
    "a kernel of the other path": (
        {"scheduler": {"_class_name": "DDIMScheduler"}, "algorithm": {"name": "grpo", "kernel": "flow_sde"}},
        "flow_sde is for rectified flows",
    ),
    "a pipeline that cannot be tuned": ({"pipeline": "FluxControlPipeline"}, "wants a control picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_a_weight_is_read(config, generator, tmp_path, name):
    """Every file of weights in the generator's folder is garbage: whoever opened one would say that instead."""
    changes, words = REFUSED[name]
    folder = tmp_path / "garbage"
    shutil.copytree(generator, folder)
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"not weights")
    values = {**config, **changes, "generator": {**config["generator"], "path": str(folder)}}
    for key in ("dtype", "call"):
        if key in changes:
            values["generator"][key] = values.pop(key)
    if "scheduler" in changes:
        values.pop("scheduler")
        scheduler = changes["scheduler"]
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        (folder / "model_index.json").write_text(json.dumps(index))
    if "pipeline" in changes:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": values.pop("pipeline")}))
    with pytest.raises(BadInput, match=words) as refusal:
        run(values)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert not Path(config["out"]).exists()


def test_garbage_for_weights_is_one_line_too(config, generator, tmp_path):
    """What the test above stands on."""
    folder = tmp_path / "garbage"
    shutil.copytree(generator, folder)
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"not weights")
    with pytest.raises(BadInput, match="cannot be loaded as a diffusers pipeline"):
        run(config, generator={**config["generator"], "path": str(folder)})


class Listener(GeneralTracker):
    name = "for_tests"
    requires_logging_directory = False
    heard = []

    @property
    def tracker(self):
        return self.heard

    def __init__(self, run_name, **settings):
        super().__init__()
        self.heard.append(("begins", run_name))

    def store_init_configuration(self, values):
        self.heard.append(("config", values))

    def log(self, values, step=None, **settings):
        self.heard.append((step, values))

    def finish(self):
        self.heard.append(("ends", None))


def test_trackers_hear_what_is_logged(config, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "for_tests", Listener)
    monkeypatch.setattr(Listener, "heard", [])
    _, rows = run(config, steps=2, trackers=["for_tests"])
    heard = Listener.heard
    assert heard[0] == ("begins", "run")
    assert heard[1][1]["algorithm.name"] == "nft"
    assert all(isinstance(value, bool | int | float | str) for value in heard[1][1].values())
    steps = [(step, "evaluation/reward" in values) for step, values in heard[2:-1]]
    assert steps == [(0, True), (1, False), (2, False), (2, True)]
    assert heard[3][1]["reward"] == rows[0]["reward"]
    assert heard[-1] == ("ends", None)


@pytest.mark.parametrize("name", ["grpo", "ddpo"])
def test_the_run_says_whether_the_first_ratio_is_one(config, capsys, name):
    _, rows = run(config, algorithm={"name": name}, steps=2)
    assert "likelihood ratios at the first update: exactly 1" in capsys.readouterr().out
    assert rows[0]["ratio_off"] == 0
    assert rows[0]["ratio"] != 1  # that of the second update, after the weights have moved, is in this mean


def test_a_rollout_that_training_does_not_repeat_is_told(config, capsys, monkeypatch):
    """The pictures were drawn by a policy whose means lie elsewhere."""
    rollout = GRPO.rollout

    def elsewhere(*arguments):
        drawn = rollout(*arguments)
        drawn.means.add_(0.05)
        return drawn

    monkeypatch.setattr(GRPO, "rollout", elsewhere)
    run(config, algorithm={"name": "grpo"}, steps=1)
    assert "away from 1, so sampling and training do not compute the same" in capsys.readouterr().out


def test_a_failed_picture_without_a_slope_does_not_stop_the_others(config):
    """Direct backpropagation: where the reward failed its gradient is not a number, and must not reach the weights."""
    changes = {"algorithm": {"name": "draft"}, "tolerated_failures": 0.5, "steps": 1}
    weights, rows = run(config, reward="rewards_for_tests:LightWithAHole", **changes)
    assert rows[0]["reward_failures"] >= 1
    assert rows[0]["grad_norm"] > 0
    assert all(torch.isfinite(value).all() for value in weights.values())
