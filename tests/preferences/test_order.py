"""What is asked first: everything once, doubts before certainties, chance among them, and no prompt crowds a batch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_images.preferences import PreferencePair
from rlhf_images.preferences.order import BATCH, CHOSEN, PER_PROMPT, doubt, telling_first


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
