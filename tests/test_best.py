"""The best checkpoint: chosen by a judge that was not trained on, and its very weights kept."""

import json
from pathlib import Path

import pytest
import torch

from rlhf_images import recorded
from rlhf_images.best import best, held_out_judge, keep_best, kept_best
from rlhf_images.evaluator import Evaluation

PROMPTS = ["a", "b"]
LORA = "pytorch_lora_weights.safetensors"


def evaluated(run: Path, step: int, scores: dict[str, float], weights: bool = True) -> recorded.Recorded:
    columns = {name: torch.tensor([score - 0.1, score + 0.1]) for name, score in scores.items()}
    seen = Evaluation(PROMPTS, [0, 1], torch.rand(2, 3, 8, 8), columns)

    def more(folder: Path) -> None:
        if weights:
            (folder / LORA).write_text(f"weights {step}")

    return recorded.record(recorded.place(run, step), seen, [], step, more)


@pytest.mark.parametrize(
    ("judges", "deciding", "expected"),
    [
        (["reward", "x", "y"], "y", "y"),
        (["reward", "x", "y"], "reward", "x"),
        (["reward"], "reward", None),
        (["reward", "x"], "gone", "x"),
    ],
)
def test_the_trained_reward_never_chooses(judges, deciding, expected):
    assert held_out_judge(judges, deciding) == expected


def test_the_best_is_kept_while_the_trained_reward_goes_on_rising(tmp_path):
    """A run that is exploited after step 2: the reward rises to the end, the judge falls."""
    found = []
    for step, judge in enumerate((0.9, 0.5, 0.7, 0.6, 0.2)):  # the base, at step 0, is no checkpoint
        found.append(evaluated(tmp_path, step, {"reward": float(step), "judge": judge}))
        keep_best(tmp_path, found, "judge", lambda folder, step=step: (folder / LORA).write_text(f"weights {step}"))
        expected = min(step, 2)
        assert kept_best(tmp_path).get("step") == (expected or None)
        if step:
            assert (tmp_path / "best" / LORA).read_text() == f"weights {expected}"
    assert kept_best(tmp_path) == {"step": 2, "judge": "judge", "score": pytest.approx(0.7)}


def test_after_a_step_back_the_best_of_what_remains_is_taken_from_its_evaluation(tmp_path):
    found = [
        evaluated(tmp_path, step, {"reward": 0.0, "judge": judge}) for step, judge in ((0, 0.0), (1, 0.5), (2, 0.4))
    ]
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(json.dumps({"step": 9, "judge": "judge", "score": 1.0}))
    keep_best(tmp_path, found, "judge", lambda folder: pytest.fail("the newest is not the best"))
    assert (tmp_path / "best" / LORA).read_text() == "weights 1"


def test_without_a_held_out_judge_there_is_no_best(tmp_path):
    found = [evaluated(tmp_path, step, {"reward": 0.1 * step}) for step in range(3)]
    assert best(found, "reward") is None
    keep_best(tmp_path, found, "reward", lambda folder: pytest.fail("nothing to keep"))
    assert kept_best(tmp_path) == {}


def test_full_weights_are_saved_only_while_they_are_there(tmp_path):
    found = [
        evaluated(tmp_path, step, {"judge": judge}, weights=False) for step, judge in ((0, 0.0), (1, 0.5), (2, 0.4))
    ]
    keep_best(tmp_path, found, "judge", lambda folder: pytest.fail("the newest is not the best"))
    assert not (tmp_path / "best").exists()
    keep_best(tmp_path, found[:2], "judge", lambda folder: (folder / "unet").mkdir())
    assert (tmp_path / "best" / "unet").is_dir()
