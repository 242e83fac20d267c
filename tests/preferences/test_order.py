"""What is asked first: everything once, doubts before certainties, chance among them, and no prompt crowds a batch."""

from collections import Counter

import numpy as np
import pytest
from choosing import POOL, chosen_by
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reward_heads import fitted, true_accuracy, world

from rlhf_images.preferences import PreferencePair
from rlhf_images.preferences.order import BATCH, CHOSEN, PER_PROMPT, doubt, most_informative_first, telling_first


def pairs_of(count: int, prompts: int) -> list[PreferencePair]:
    return [PreferencePair(f"{i:03d}", f"prompt {i % prompts}", "l", "r") for i in range(count)]


@given(st.data(), st.integers(0, 60), st.integers(1, 12), st.integers(1, 3))
def test_every_pair_comes_once_and_no_prompt_crowds_a_batch(data, count, prompts, models):
    pairs = pairs_of(count, prompts)
    chances = data.draw(arrays(np.float64, (models, count), elements=st.floats(0, 1)))
    order = telling_first(pairs, chances)
    assert sorted(order) == [pair.pair for pair in pairs]
    if prompts * PER_PROMPT >= 2 * BATCH:
        prompt = {pair.pair: pair.prompt for pair in pairs}
        first = Counter(prompt[name] for name in order[:BATCH])
        assert max(first.values(), default=0) <= PER_PROMPT


def test_seven_of_ten_are_by_doubt():
    pairs = pairs_of(400, 100)
    chances = np.random.default_rng(1).random((3, 400))
    order = telling_first(pairs, chances)
    rank = {pairs[row].pair: place for place, row in enumerate(np.argsort(-doubt(chances)))}
    for start in range(0, 100, BATCH):
        batch = sorted(rank[name] for name in order[start : start + BATCH])
        assert batch[CHOSEN - 1] < (start + BATCH) * 1.3  # the chosen ones are the next in doubt
        assert batch[-1] > 100  # and some of the others are not
    assert telling_first(pairs, chances, seed=1) != order == telling_first(pairs, chances)


def test_doubt_is_disagreement_times_closeness():
    chances = np.array([[0.5, 0.9, 0.2, 0.5], [0.5, 0.9, 0.8, 0.7]])
    assert doubt(chances) == pytest.approx([0, 0, 0.3 * 1, 0.1 * 0.8])
    assert doubt(chances[:1]) == pytest.approx([1, 0.2, 0.4, 1])
    assert doubt(1 - chances) == pytest.approx(doubt(chances))


@pytest.mark.parametrize("chances", [np.zeros((1, 3)), np.full((1, 4), 1.5), np.full((1, 4), np.nan)])
def test_what_are_no_chances_is_refused(chances):
    with pytest.raises(ValueError, match="chances"):
        telling_first(pairs_of(4, 2), chances)


@given(st.data(), st.integers(0, 60), st.integers(1, 12), st.integers(1, 4))
def test_the_most_informative_pairs_come_once_too(data, count, prompts, columns):
    pairs = pairs_of(count, prompts)
    told = data.draw(arrays(np.float64, (count, columns), elements=st.floats(-3, 3)))
    order = most_informative_first(pairs, told)
    assert sorted(order) == [pair.pair for pair in pairs]
    assert order == most_informative_first(pairs, told)
    if prompts * PER_PROMPT >= 2 * BATCH:
        prompt = {pair.pair: pair.prompt for pair in pairs}
        chosen = Counter(prompt[name] for name in order[:CHOSEN])
        assert max(chosen.values(), default=0) <= PER_PROMPT


@pytest.mark.parametrize("seed", range(3))
def test_each_chosen_pair_raises_the_determinant_most(seed):
    """By brute force, given those before it; the three of ten that are drawn count as told as well."""
    source = np.random.default_rng(seed)
    told = source.normal(size=(40, 5))
    pairs = pairs_of(40, 40)
    order = [int(name) for name in most_informative_first(pairs, told, seed)]
    information = np.eye(5)
    for place, row in enumerate(order[:30]):
        gains = {other: np.linalg.det(information + np.outer(told[other], told[other])) for other in order[place:]}
        if place % BATCH < CHOSEN:
            assert gains[row] >= max(gains.values()) * (1 - 1e-4)
        information += np.outer(told[row], told[row])
    drawn = [row for place, row in enumerate(order[:20]) if place % BATCH >= CHOSEN]
    assert drawn != sorted(drawn, key=lambda row: -np.square(told[row]).sum())


def test_what_was_told_is_not_asked_again():
    """Twenty copies of the loudest pair, and seven quieter ones that tell other things."""
    told = np.zeros((27, 8))
    told[:20, 0] = 3.0
    told[20:, 1:] = np.eye(7)
    order = most_informative_first(pairs_of(27, 27), told)
    assert {int(name) for name in order[1:CHOSEN]} <= set(range(20, 27))
    blind = most_informative_first(pairs_of(27, 27), told, lookahead=0)
    assert all(int(name) < 20 for name in blind[:CHOSEN])


@pytest.mark.parametrize("told", [np.zeros((3, 2)), np.zeros(4), np.full((4, 2), np.nan)])
def test_what_tells_nothing_of_every_pair_is_refused(told):
    with pytest.raises(ValueError, match="information"):
        most_informative_first(pairs_of(4, 2), told)


def test_a_chosen_vote_is_worth_more_than_one_and_a_half_random_ones():
    """A small version of benchmarks/choosing.py: 200 votes, seven of ten of them chosen, against 200 and 320."""
    found = []
    for seed in (1, 3):
        drawn = world(seed, POOL)
        chosen = chosen_by(drawn, seed, (200,), CHOSEN, told=True, often=True)
        fits = [fitted(drawn, list(range(n)), seed, told=True)[0] for n in (200, 320)]
        found.append([*chosen, *(true_accuracy(drawn, fit) for fit in fits)])
    chosen, as_many, more = np.mean(found, 0)
    assert chosen > as_many + 0.02
    assert chosen > more
