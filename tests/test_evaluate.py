"""Any generators against the first: what a name may stand for, and what is kept, said and refused."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from forked import Launch

from reward_models import load as load_reward
from rlhf_images.cli import run
from rlhf_images.config import build
from rlhf_images.errors import BadInput
from rlhf_images.evaluate_generators import EvaluateConfig, evaluate_generators
from rlhf_images.finetune import finetune
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.generators.tiny import build as build_pipeline
from rlhf_images.recorded import of_run
from rlhf_images.report.of_run import _against_base, compared, content_of, find_run

PROMPTS = ["a cat", "a dog", "a fox"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two pipelines and a finetune run with a held-out judge."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("plain", "other")):
        sizes = TinyConfig(layers=1, heads=1, channels=(8, 8), text_width=16, text_tokens=4)
        pipe = build_pipeline(sizes, 8, PROMPTS, seed=seed)
        with torch.no_grad():
            for i, parameter in enumerate(pipe.transformer.parameters()):  # diffusers starts the output layer at zero
                if not parameter.any():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
        pipe.save_pretrained(root / name)
    config = {
        "generator": {"path": str(root / "plain"), "steps": 2, "call": {"max_sequence_length": 4}},
        "prompts": PROMPTS,
        "reward": "brightness",
        "out": str(root / "tuned"),
        "steps": 2,
        "prompts_per_step": 3,
        "group_size": 4,
        "algorithm": {"name": "nft"},
        "lora": {"rank": 2, "alpha": 4},
        "optimizer": {"lr": 1e-2},
        "evaluation": {
            "prompts": PROMPTS,
            "seeds_per_prompt": 2,
            "every": 1,
            "judges": {"contrast": "contrast"},
            "deciding": "contrast",
        },
    }
    finetune(build(FinetuneConfig, config, "test"), load_reward)
    return root


def test_a_pipeline_a_run_a_checkpoint_and_a_lora_file_meet_on_the_same_noise(root, tmp_path):
    prompts = tmp_path / "prompts.csv"
    with prompts.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "prompt"], ["1", "a,\ncat"], ["2", "a dog"], ["3", "a fox"]])
    command = ["evaluate", "--generators", f"base={root / 'plain'}", f"tuned={root / 'tuned'}"]
    command += [f"step 1={root / 'tuned/evaluations/step_000001'}", f"other={root / 'other'}"]
    command += [f"file={root / 'tuned/pytorch_lora_weights.safetensors'}"]
    command += ["--prompts", str(prompts), "--seeds", "3", "--out", str(tmp_path / "out")]
    assert run(command) == 0
    found = compared(tmp_path / "out")
    assert list(found) == ["base", "tuned", "step 1", "other", "file"]
    assert found["base"].names == ["a,\ncat", "a dog", "a fox"]
    assert {name: set(one.scores) for name, one in found.items()} == {name: {"reward", "contrast"} for name in found}
    pixels = {name: one.thumbnails for name, one in found.items()}
    assert (pixels["file"] == pixels["tuned"]).all()
    assert all((pixels["base"] != pixels[name]).any() for name in ("tuned", "step 1", "other"))
    assert (pixels["step 1"] != pixels["tuned"]).any()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["judge"] == "contrast"  # as the run says: never the reward it was trained on
    assert summary["generators"].keys() == found.keys()
    assert summary["generators"]["tuned"]["win_rate"] == summary["win_rate"]
    assert "win_rate" not in summary["generators"]["base"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Generators" in page
    assert [column.name for column in content_of(tmp_path / "out").columns] == list(found)
    before = (tmp_path / "out/summary.json").stat().st_mtime_ns
    assert run(command) == 0  # already done
    assert (tmp_path / "out/summary.json").stat().st_mtime_ns == before
    (tmp_path / "out/report.html").unlink()
    assert run(["report", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/report.html").read_text() == page


def test_the_command_that_the_report_gives_for_an_earlier_step_is_one(root):
    told = _against_base(root / "tuned", str(root / "plain"), 1, of_run(root / "tuned"))
    assert run([*shlex.split(told)[1:], "--seeds", "2"]) == 0
    found = compared(root / "tuned/against_step_1")
    assert list(found) == ["base", "step 1", "last"]
    assert found["base"].names == of_run(root / "tuned")[0].names  # the run's prompts, where none are given
    assert all((found["step 1"].thumbnails != found[name].thumbnails).any() for name in ("base", "last"))
    assert find_run(root / "tuned")[0] == root / "tuned"  # and it is in nobody's way


def test_what_keeps_no_weights_is_not_taken_for_the_end_of_its_run(root, tmp_path, capsys):
    command = ["evaluate", "--generators", f"base={root / 'plain'}", f"early={root / 'tuned/samples'}"]
    assert run([*command, "--prompts", "digits", "--out", str(tmp_path / "out")]) == 2
    assert "samples: no weights were kept in it; name the run" in capsys.readouterr().err


def test_a_finished_run_may_be_told_another_judge(root, capsys):
    config = json.loads((root / "tuned/run.json").read_text())["config"]
    for deciding in ("reward", "contrast"):
        config["evaluation"]["deciding"] = deciding
        finetune(build(FinetuneConfig, config, "test"), load_reward)
        assert run(["evaluate", str(root)]) == 0
        assert json.loads((root / "summary.json").read_text())["judge"] == deciding
    assert capsys.readouterr().out.count("already tuned") == 2


def test_a_judge_that_fails_everywhere_leaves_no_finished_comparison(root, tmp_path, capsys):
    config = {
        "generators": {"a": str(root / "plain"), "b": str(root / "other")},
        "generator": {"path": "", "steps": 2, "call": {"max_sequence_length": 4}},
        "evaluation": {
            "prompts": PROMPTS,
            "judges": {"none": "rewards_for_tests:hopeless"},
            "final_seeds_per_prompt": 2,
        },
        "out": str(tmp_path / "out"),
    }
    with pytest.raises(BadInput, match="failed on every pair; choose another: --deciding NAME"):
        evaluate_generators(build(EvaluateConfig, config, "test"), load_reward)
    assert not json.loads((tmp_path / "out/run.json").read_text())["finished"]


def test_two_processes_draw_together_and_one_writes(root):
    def numbers() -> list[float]:
        summary = json.loads((root / "summary.json").read_text())
        summary.pop("seconds")
        return [float(number) for number in re.findall(r"-?\d+\.\d+", json.dumps(summary))]

    assert run(["evaluate", str(root)]) == 0
    alone = numbers()
    (root / "summary.json").unlink()
    launch = Launch("evaluate", root, 2)
    assert launch.codes() == [0, 0], launch.said
    assert launch.said.count("report: ") == 1
    assert len(alone) > 8
    assert numbers() == pytest.approx(alone, rel=1e-3)  # differences over their spread, of rounded pictures


def test_two_pipelines_without_a_run_and_with_guidance(root, tmp_path):
    config = {
        "generators": {"a": str(root / "plain"), "b": str(root / "other")},
        "generator": {"path": "", "steps": 2, "call": {"max_sequence_length": 4}},
        "guidances": [1.0, 3.0],
        "evaluation": {"prompts": PROMPTS, "judges": {"bright": "brightness"}, "final_seeds_per_prompt": 2},
        "out": str(tmp_path / "out"),
    }
    evaluate_generators(build(EvaluateConfig, config, "test"), load_reward)
    found = compared(tmp_path / "out")
    assert list(found) == ["a", "b", "a, guidance 3", "b, guidance 3"]
    assert (found["a"].thumbnails != found["a, guidance 3"].thumbnails).any()
    assert (
        "Better than" in (tmp_path / "out/report.html").read_text()
        or "evidence" in (tmp_path / "out/report.html").read_text()
    )


def test_a_file_that_is_no_lora_is_told(root, tmp_path):
    broken = tmp_path / "a.safetensors"
    broken.write_bytes(b"no tensors")
    config = {
        "generators": {"base": str(root / "tuned"), "lora": str(broken)},
        "evaluation": {"prompts": PROMPTS, "final_seeds_per_prompt": 2},
        "out": str(tmp_path / "out"),
    }
    built = build(EvaluateConfig, config, "test")
    with pytest.raises(BadInput, match=r"a\.safetensors: cannot be put on"):
        evaluate_generators(built, load_reward)
    assert not (tmp_path / "out/compared").exists()  # half a comparison is none


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--generators", "a=x"], "Add --prompts"),
        (["--generators", "a=x", "b", "--prompts", "digits", "--out", "o"], "expected NAME=VALUE"),
        (["--generators", "a=x", "--prompts", "digits", "--out", "o"], "name two or more"),
        (["--prompts", "digits"], "only together with --generators"),
        (["runs/a", "steps=3"], "as its own config says"),
        ([], "what? Give a finetune run"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(capsys, arguments, words):
    assert run(["evaluate", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_lora_of_an_unknown_pipeline_and_a_comparison_without_judges_are_refused(root, tmp_path):
    lora = tmp_path / "a.safetensors"
    lora.write_bytes((root / "tuned/pytorch_lora_weights.safetensors").read_bytes())
    common = {"evaluation": {"prompts": PROMPTS}, "out": str(tmp_path / "out")}
    for other, words in ((lora, "a LoRA of which pipeline"), (root / "other", "no judges")):
        config = {**common, "generators": {"base": str(root / "plain"), "other": str(other)}}
        built = build(EvaluateConfig, config, "test")
        with pytest.raises(BadInput, match=words):
            evaluate_generators(built, load_reward)
    assert not (tmp_path / "out").exists()
