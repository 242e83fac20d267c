"""Which pairs to ask about first: those on which reward models disagree and are undecided, mixed with random ones.

The most undecided pairs alone teach less than random ones: they are alike, and often undecidable. So of each batch of
ten, seven are chosen and three drawn, and at most two are of one prompt.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .pairs import PreferencePair

BATCH = 10
CHOSEN = 7
"""Of each batch by `doubt`; the others are drawn."""
PER_PROMPT = 2
"""Of one prompt in a batch, while others are left."""


def doubt(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much ``(P,)`` is to be learnt from each pair, from ``chances (M, P)`` that M models give the left one.

    Disagreement (the standard deviation over the models) × closeness (1 − |2 · mean − 1|). One model alone cannot
    disagree: its closeness counts.
    """
    closeness: NDArray[np.float64] = 1 - np.abs(2 * chances.mean(0) - 1)
    return closeness if len(chances) == 1 else chances.std(0) * closeness


def telling_first(pairs: Sequence[PreferencePair], chances: NDArray[np.float64], seed: int = 0) -> list[str]:
    """Return the ids of all ``pairs``, the most telling first, given ``chances (M, P)`` in [0, 1] of the left one."""
    if chances.shape[1:] != (len(pairs),) or not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError(f"chances {chances.shape} of {len(pairs)} pairs: one in [0, 1] a model and pair")
    by_doubt = dict.fromkeys(np.argsort(-doubt(chances), kind="stable").tolist())
    at_random = dict.fromkeys(np.random.default_rng(seed).permutation(len(pairs)).tolist())
    order: list[int] = []
    while by_doubt:
        prompts: Counter[str] = Counter()
        for queue, share in ((by_doubt, CHOSEN), (at_random, BATCH - CHOSEN)):
            for row in _first(queue, share, pairs, prompts):
                del by_doubt[row], at_random[row]
                order.append(row)
    return [pairs[row].pair for row in order]


def _first(rows: Iterable[int], count: int, pairs: Sequence[PreferencePair], prompts: Counter[str]) -> list[int]:
    """Return the first ``count`` of ``rows`` whose prompt is not used up in this batch, and note their prompts."""
    chosen: list[int] = []
    for row in rows:
        if len(chosen) == count:
            break
        if prompts[pairs[row].prompt] < PER_PROMPT:
            prompts[pairs[row].prompt] += 1
            chosen.append(row)
    return chosen
