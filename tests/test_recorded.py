"""Evaluations on disk: what was seen comes back, whole or not at all, and rows of one number belong together."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_images import recorded
from rlhf_images.errors import BadInput
from rlhf_images.evaluator import Evaluation
from rlhf_images.statistics import diversity

NAMES = ["a cat", "a dog\u2028with a line", "eine Kuh"]


def evaluation(seeds=4, side=16, seed=0, features=True) -> Evaluation:
    count = seeds * len(NAMES)
    noise = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, side, side, generator=noise)
    scores = {"reward": images.mean((1, 2, 3)), "judge": torch.rand(count, generator=noise)}
    scores["judge"][1] = torch.nan
    seen = images.flatten(1)[:, :5] if features else None
    return Evaluation(
        NAMES * seeds, list(range(count)), images, scores, {"reward": scores["reward"] / 9}, seen, features and "judge"
    )


@pytest.mark.parametrize("side", [16, 80], ids=["png", "webp"])
def test_what_was_written_is_read(tmp_path, side):
    seen = evaluation(side=side)
    kept = recorded.kept_rows(3, 4, 2, 2)
    assert kept == [0, 2, 3, 5]
    found = recorded.record(tmp_path / "e" / "step_000020", seen, kept, step=20)
    assert (found.step, found.names, found.kept, found.count) == (20, NAMES, kept, 12)
    assert found.prompts == seen.prompts
    assert found.seeds == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for name, scores in seen.scores.items():
        np.testing.assert_array_equal(found.scores[name], scores.double().numpy())
    np.testing.assert_array_equal(found.stds["reward"], seen.stds["reward"].double().numpy())
    assert found.features is not None
    np.testing.assert_array_equal(found.features, seen.features.double().numpy())
    assert found.features_by == "judge"
    tolerance = 0.5 / 255 + 1e-6 if side < recorded.LOSSLESS else 0.35
    for row in kept:
        assert (found.image(row) - seen.images[row]).abs().mean() < tolerance
    with pytest.raises(BadInput, match="row 1 is missing"):
        found.picture(1)
    assert diversity(found.thumbnails, found.prompts) == pytest.approx(seen.diversity, abs=2e-3)


def test_a_new_evaluation_of_the_same_step_replaces_the_old_and_a_failed_one_leaves_it(tmp_path):
    folder = tmp_path / "step_000001"
    recorded.record(folder, evaluation(seed=1), [0, 1, 2], 1)
    recorded.record(folder, evaluation(seed=2), [0], 1, lambda path: (path / "weights").write_bytes(b"w"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluation.json",
        "pictures",
        "tensors.safetensors",
        "weights",
    ]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def broken(path):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        recorded.record(folder, evaluation(seed=3), [0], 1, broken)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_the_evaluations_of_a_run_come_in_order_and_damaged_ones_are_left_out(tmp_path):
    for step in (20, 0, 1_000_000, 5):
        recorded.record(recorded.place(tmp_path, step), evaluation(), [0], step)
    assert [found.step for found in recorded.of_run(tmp_path)] == [0, 5, 20, 1_000_000]
    (recorded.place(tmp_path, 5) / "tensors.safetensors").write_bytes(b"\0" * 20)
    told = json.loads((recorded.place(tmp_path, 20) / "evaluation.json").read_text())
    told["scores"]["reward"].pop()
    (recorded.place(tmp_path, 20) / "evaluation.json").write_text(json.dumps(told))
    assert [found.step for found in recorded.of_run(tmp_path)] == [0, 1_000_000]
    recorded.rewind(tmp_path, 20)
    assert [found.step for found in recorded.of_run(tmp_path)] == [0]
    assert recorded.base_of(tmp_path).step == 0
    recorded.rewind(tmp_path, -1)
    assert recorded.base_of(tmp_path) is None


def test_drift_is_nought_from_itself_and_grows_with_the_change(tmp_path):
    base = recorded.record(tmp_path / "base", evaluation(), [0])
    assert recorded.drift(base, base) == {
        "distance": pytest.approx(0, abs=1e-9),
        "feature_distance": pytest.approx(0, abs=1e-9),
    }
    gone = []
    for share in (0.2, 0.8):
        seen, other = evaluation(), evaluation(seed=9)
        mixed = Evaluation(
            seen.prompts, seen.index, torch.lerp(seen.images, other.images, share), seen.scores,
            features=torch.lerp(seen.features, other.features, share), features_by="judge",
        )  # fmt: skip
        gone.append(recorded.drift(recorded.record(tmp_path / str(share), mixed, []), base))
    assert 0 < gone[0]["distance"] < gone[1]["distance"]
    assert 0 < gone[0]["feature_distance"] < gone[1]["feature_distance"]
    blind = recorded.record(tmp_path / "blind", evaluation(features=False), [])
    assert recorded.drift(blind, base).keys() == {"distance"}
    few = recorded.record(tmp_path / "few", evaluation(), [])
    more = recorded.record(tmp_path / "more", evaluation(seeds=6), [])
    assert recorded.drift(few, more).keys() == {"distance", "feature_distance"}


@given(*[st.integers(1, 70)] * 4)
def test_kept_rows_are_bounded_spread_and_the_first_of_more_seeds(prompts, seeds, kept_prompts, kept_seeds):
    kept = recorded.kept_rows(prompts, seeds, kept_prompts, kept_seeds)
    assert kept == sorted(set(kept))
    assert len(kept) == min(prompts, kept_prompts) * min(seeds, kept_seeds)
    assert all(row < prompts * seeds for row in kept)
    more = recorded.kept_rows(prompts, seeds + 3, kept_prompts, kept_seeds)
    assert more[: len(kept)] == kept
    assert {0, prompts - 1} <= {row % prompts for row in kept} or min(prompts, kept_prompts) == 1
