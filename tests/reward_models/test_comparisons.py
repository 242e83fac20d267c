"""The split: what teaches never tests; and how much a pair counts."""

import math
import random

import pytest
import torch
from pairs_for_tests import made
from torch.nn.functional import binary_cross_entropy_with_logits

from reward_models.comparisons import compared, mean_one, split
from reward_models.trl_trainer import Collator
from rlhf_images.preferences.pairs import Counts, LabelledPair, PreferencePair


def labelled(count: int, prompts: int, pictures: int, seed: int) -> list[LabelledPair]:
    """Pairs of ``pictures`` pictures a prompt, some shared, with random votes."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        prompt = f"prompt {number % prompts}"
        left, right = draw.sample(range(pictures), 2)
        pair = PreferencePair(f"pair{number:03d}", prompt, f"{prompt}/{left}", f"{prompt}/{right}")
        rows.append(LabelledPair(pair, draw.randint(0, 2), draw.randint(1, 2), draw.randint(0, 1), 0))
    return rows


@pytest.mark.parametrize(("prompts", "pictures"), [(1, 60), (4, 40), (10, 300), (20, 3), (40, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_never_shares_a_picture_or_prompt(prompts, pictures, seed):
    rows = labelled(200, prompts, pictures, seed)
    division = split(rows, 0.25, seed)
    assert sorted(division.train + division.held_out) == list(range(200))
    assert division.by == ("prompt" if prompts >= 20 else "picture")
    seen = [
        {name for i in side for name in (rows[i].pair.left, rows[i].pair.right)}
        for side in (division.train, division.held_out)
    ]
    assert not seen[0] & seen[1]
    if division.by == "prompt":
        asked = [{rows[i].pair.prompt for i in side} for side in (division.train, division.held_out)]
        assert not asked[0] & asked[1]
        assert abs(len(division.held_out) - 50) <= 10


def test_labels_are_soft_and_a_picture_of_two_prompts_counts_as_two():
    rows = [
        LabelledPair(PreferencePair("a", "x", "p", "q", 0.25), 3, 1, 0, 0),
        LabelledPair(PreferencePair("b", "y", "q", "r"), 0.2, 0.7, 1.1, 0),
        LabelledPair(PreferencePair("c", "x", "r", "p"), 0, 0, 1, 3),
    ]
    data = compared(rows)
    assert data.target.tolist() == pytest.approx([0.75, 0.375, 0.5])
    assert data.tie.tolist() == pytest.approx([0, 0.55, 1])
    assert data.weight.tolist() == [0.25, 1, 1]
    seen = list(zip(data.ids, data.prompts, strict=True))
    assert sorted(seen) == [("p", "x"), ("q", "x"), ("q", "y"), ("r", "x"), ("r", "y")]
    sides = [(seen[left], seen[right]) for left, right in zip(data.left.tolist(), data.right.tolist(), strict=True)]
    assert sides == [(("p", "x"), ("q", "x")), (("q", "y"), ("r", "y")), (("r", "x"), ("p", "x"))]


def test_holds_out_evenly_over_the_prompts():
    rows = [
        LabelledPair(PreferencePair(f"pair{i:03d}", f"prompt {i % 10}", f"{i}/l", f"{i}/r"), 1, 0, 0, 0)
        for i in range(320)
    ]
    division = split(rows, 0.25, 0)
    assert len(division.held_out) == 80
    prompts = [rows[i].pair.prompt for i in division.held_out]
    assert {prompts.count(prompt) for prompt in set(prompts)} == {8}
    assert split(rows, 0.25, 1).hash != division.hash
    assert split(rows, 0.0, 0).held_out == []


def test_depends_on_neither_order_nor_votes():
    rows = labelled(100, 10, 300, 3)
    other = [LabelledPair(row.pair, 1, 0, 0, 0) for row in rows]
    random.Random(0).shuffle(other)
    ids = [{side[i].pair.pair for i in split(side, 0.25, 7).held_out} for side in (rows, other)]
    assert ids[0] == ids[1]
    assert split(rows, 0.25, 7).hash == split(other, 0.25, 7).hash


def test_pairs_that_all_hang_together_teach():
    rows = [LabelledPair(PreferencePair(f"p{i}", "a", "same", f"{i}"), 1, 0, 0, 0) for i in range(9)]
    division = split(rows, 0.25, 0)
    assert division.held_out == []
    assert len(division.train) == 9
    assert split(rows[:1], 0.9, 0).train == [0]


def test_pairs_count_as_much_as_they_weigh(tmp_path):
    """The loss is the weighted mean: pairs of one ranking of many pictures share one voice."""
    told = [("000000", "2", 1.0), ("000001", "1", 0.25)]
    rows = [PreferencePair(name, "a", "0", right, weight, "", Counts(left=1.0)) for name, right, weight in told]
    pairs = made(tmp_path / "pairs", rows)
    data = compared(pairs.labelled())
    assert data.weight.tolist() == [1.0, 0.25]
    batch = Collator(data, lambda rows: {}, mean_one(data, [0, 1]))([{"pair": 0}, {"pair": 1}])
    assert batch["weight"].tolist() == pytest.approx([1.6, 0.4])
    margin = torch.tensor([0.7, -0.2])
    loss = binary_cross_entropy_with_logits(margin, batch["target"], batch["weight"]).item()
    single = [math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.2))]
    assert loss == pytest.approx((single[0] + 0.25 * single[1]) / 1.25, abs=1e-6)
