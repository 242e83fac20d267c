"""The loop over rounds: its commands are real ones, it continues where it ended, and tells what each round bought."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from pairs_for_tests import made

from rlhf_images import recorded
from rlhf_images.choose import ChooseConfig, choose
from rlhf_images.cli import parser
from rlhf_images.cli import run as command
from rlhf_images.config import build, load
from rlhf_images.errors import BadInput, Stop
from rlhf_images.evaluator import Evaluation
from rlhf_images.files import write_json
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.generators.tiny import build as build_pipeline
from rlhf_images.loop import LoopConfig, loop, shown, steps
from rlhf_images.preferences import Event, Pairs, PreferencePair
from rlhf_images.report.of_run import COMPARED
from rlhf_images.report.rounds import write_rounds
from rlhf_images.runs import Run

PROMPTS = ["a cat", "a dog"]
BY_HAND = {"generate": "a.yaml", "reward": "b.yaml", "finetune": ["c.yaml", "steps=3"], "out": "runs/loop"}


@pytest.mark.parametrize("scripted", [None, "bold"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_step_is_a_command_that_exists(number, scripted):
    config = build(LoopConfig, BY_HAND | {"scripted": scripted, "votes": 20}, "test")
    found = steps(config, number)
    assert len({step.name for step in found}) == len(found)
    for step in found:
        parsed = parser().parse_args(step.command)
        assert parsed.run.__name__.strip("_").replace("_", "-").startswith(step.command[0].split("-")[0])
    said = [shown(step, ()) for step in found]
    assert said[-2].startswith("accelerate launch scripts/finetune.py c.yaml steps=3 reward=runs/loop/round_")
    taught = [line for line in said if "train-reward" in line]
    assert taught == [
        f"rlhf-images train-reward b.yaml pairs=runs/loop/round_{number}/all out=runs/loop/round_{number}/reward"
    ]
    assert sum("import-pairs" in line for line in said) == number  # the votes of every round so far


def test_from_the_second_round_on_the_tuned_generator_draws_and_the_last_reward_doubts():
    config = load(LoopConfig, "digits/loop.yaml")
    first, second = ([shown(step, ()) for step in steps(config, number)] for number in (1, 2))
    assert not any("tuned=" in line or "--doubts-of" in line for line in first)
    assert any("rlhf-images generate" in line and "tuned=runs/loop/round_1/tuned" in line for line in second)
    assert any("--count 160 --doubts-of runs/loop/round_1/reward" in line for line in second)


def test_a_step_that_fails_ends_the_loop_with_its_code_and_nothing_before_it_is_repeated(tmp_path):
    config = build(LoopConfig, BY_HAND | {"out": str(tmp_path / "loop")}, "test")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "mine.txt").write_text("x")
    with pytest.raises(BadInput, match="holds no run of ours"):
        loop(config)
    (tmp_path / "loop" / "mine.txt").unlink()
    done = [step.name for step in steps(config, 1)]
    Run("loop", config, config.out).save()
    write_json(tmp_path / "loop" / "loop.json", {"done": done[:1]})
    with pytest.raises(Stop, match="round_1 choose ended with exit code 2; mend what it says") as stopped:
        loop(config)  # there is no pool: the step before was only said to be done
    assert stopped.value.exit_code == 2
    (tmp_path / "loop" / "loop.json").write_text("[]")
    with pytest.raises(BadInput, match="cannot be read"):
        loop(config)


# Choosing


def made_pairs(folder, count):
    rows = [PreferencePair(f"{n:03d}", "p", str(n), str(n + 1)) for n in range(count)]
    return made(folder, rows, pictures=count + 1)


def test_what_is_chosen_are_the_first_pairs_in_order_with_ids_and_pictures(tmp_path):
    pool = made_pairs(tmp_path / "pool", 12)
    order = [pair.pair for pair in reversed(pool.pairs)]
    choose(ChooseConfig(str(pool.folder), str(tmp_path / "some"), 5), order)
    some = Pairs(tmp_path / "some")
    assert some.pairs == pool.pairs[-5:]
    assert some.pictures.keys() == {picture for pair in some.pairs for picture in (pair.left, pair.right)}
    for pair in some.pairs:
        torch.testing.assert_close(some.image(pair.left), pool.image(pair.left))
    choose(ChooseConfig(str(pool.folder), str(tmp_path / "some"), 5), order)  # again: nothing happens
    with pytest.raises(BadInput, match="another run"):
        choose(ChooseConfig(str(pool.folder), str(tmp_path / "some"), 6), order)


def test_on_the_command_line_reward_models_may_say_which(tmp_path, capsys):
    pool = made_pairs(tmp_path / "pool", 12)
    for name, doubts in (("some", []), ("doubtful", ["--doubts-of", "brightness", "contrast"])):
        assert command(["choose", str(pool.folder), str(tmp_path / name), "--count", "4", *doubts]) == 0
        assert len(Pairs(tmp_path / name).pairs) == 4
    assert "4 of 12 pairs" in capsys.readouterr().out
    assert command(["choose", str(pool.folder), str(tmp_path / "none"), "--count", "0"]) == 2
    assert command(["choose", str(pool.folder), str(tmp_path / "none"), "--by", "disagreement"]) == 2
    assert "name them with --doubts-of" in capsys.readouterr().err


def test_without_an_order_the_choice_is_random_the_same_and_not_the_first(tmp_path):
    pool = made_pairs(tmp_path / "pool", 30)
    for name in ("one", "other"):
        choose(ChooseConfig(str(pool.folder), str(tmp_path / name), 10), None)
    one, other = Pairs(tmp_path / "one").pairs, Pairs(tmp_path / "other").pairs
    assert one == other
    assert one != pool.pairs[:10]


# The page of all rounds


def test_the_page_tells_each_round_in_numbers_and_pictures(tmp_path):
    for number in (1, 2):
        here = tmp_path / f"round_{number}"
        known = made_pairs(here / "all", 10 * number)
        known.store.add([Event(pair.pair, "vote", pair.pair, "me", "left") for pair in known.pairs])
        judged = {"judge": "utility", "win_rate": 0.5 + number / 10, "win_rate_ci": [0.41, 0.83]}
        scores = {"utility_base": 1.0, "utility_tuned": 1.0 + number, "diversity_base": 0.5, "diversity_tuned": None}
        for file, content in (
            ("summary.json", {**judged, **scores, "seconds": {"total": 61.0}}),
            ("reward/card.json", {"held_out_accuracy": 0.8, "held_out_accuracy_ci": [0.71, 0.89]}),
        ):
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            write_json(here / file, content)
        tuned = here / "tuned"
        tuned.mkdir()
        config = {"evaluation": {"judges": {"utility": "bold"}}}
        write_json(tuned / "run.json", {"stage": "finetune", "config": config, "seconds": 1.0, "finished": True})
        for place in (0, 1):
            images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(place * number))
            scores = {"utility": torch.arange(4.0) / 100 + place * number}
            evaluation = Evaluation(["a <b>cat</b>", "a dog"] * 2, list(range(4)), images, scores)
            recorded.record(tuned / COMPARED / f"{place:03d}", evaluation, range(4))
        entries = [{"name": name, "folder": f"{place:03d}"} for place, name in enumerate(("base", "tuned"))]
        write_json(tuned / COMPARED / "compared.json", {"generators": entries})
    html = write_rounds(tmp_path, 2).read_text()
    for words in (
        "round 1",
        "round 2",
        "<td>10</td>",
        "<td>20</td>",
        "60\u00a0%",
        "70\u00a0%",
        "41–83",
        "1\u00a0min 1\u00a0s",
        "<td>+1.000 <small>+1.000 to +1.000</small></td>",
        "Against round 1, round 2 bought a higher ‘utility’.",
    ):
        assert words in html
    assert "a &lt;b&gt;cat" in html
    assert "<b>cat" not in html
    assert html.count("<img") == 6  # two prompts by the base and by both rounds
    assert html.count('alt="round 2: a dog"') == 1
    assert 'href="round_2/report.html"' in html


@pytest.mark.campaign
@pytest.mark.parametrize("by_hand", [False, True])
def test_two_rounds_run_by_themselves_and_go_on_after_a_kill(tmp_path, by_hand):
    sizes = TinyConfig(layers=1, heads=1, channels=(8, 8), text_width=16, text_tokens=4)
    build_pipeline(sizes, 8, list(PROMPTS), 0).save_pretrained(tmp_path / "base")
    called = {"path": str(tmp_path / "base"), "steps": 2, "call": {"max_sequence_length": 4}}
    evaluation = {"prompts": PROMPTS, "seeds_per_prompt": 2, "final_seeds_per_prompt": 2, "every": 2}
    judged = {"judges": {"light": "brightness"}, "deciding": "light"}
    configs = {
        "generate": {"generator": called, "prompts": PROMPTS, "out": "-", "pairs_per_prompt": 8},
        "reward": {"pairs": "-", "out": "-", "model": {"name": "head", "features": {"statistics": True}}},
        "finetune": {
            "generator": called,
            "prompts": PROMPTS,
            "reward": "-",
            "out": "-",
            "steps": 2,
            "prompts_per_step": 2,
            "group_size": 4,
            "evaluation": evaluation | judged,
            "lora": {"rank": 2, "alpha": 4},
        },
    }
    for name, content in configs.items():
        write_json(tmp_path / f"{name}.yaml", content)
    told = {name: str(tmp_path / f"{name}.yaml") for name in configs}
    told |= {"out": str(tmp_path / "loop"), "votes": 12, "scripted": None if by_hand else "brightness"}
    write_json(tmp_path / "loop.yaml", told)
    command = [sys.executable, "-m", "rlhf_images", "loop", str(tmp_path / "loop.yaml")]
    pairs, heard = tmp_path / "loop" / "round_1" / "pairs", []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            heard.append(line)
            if line.startswith("label at "):  # the page is open, and waits
                judged = Pairs(pairs)
                judged.store.add([Event(pair.pair, "vote", pair.pair, "me", "left") for pair in judged.pairs])
            if line.startswith("round 1 of 2: rlhf-images train-reward"):
                for process in (psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)):
                    process.kill()
    assert first.returncode == -signal.SIGKILL, "".join(heard)
    done = json.loads((tmp_path / "loop" / "loop.json").read_text())["done"]
    assert done == ["round_1 generate", "round_1 choose", "round_1 label", "round_1 export", "round_1 import 1"]
    assert any(line.startswith("label at ") for line in heard) == by_hand
    if by_hand:
        return
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "round 1 of 2: rlhf-images generate" not in again.stdout
    assert json.loads((tmp_path / "loop" / "run.json").read_text())["finished"]
    assert (tmp_path / "loop" / "report.html").is_file()
    assert len(Pairs(tmp_path / "loop" / "round_2" / "all").labelled()) == 24


def test_nothing_is_chosen_from_nothing(tmp_path):
    with pytest.raises(BadInput, match="no pairs in it"):
        choose(ChooseConfig(str(Path(tmp_path)), str(tmp_path / "out"), 5), None)
