"""Which pairs to ask about first: those that teach a reward model most, mixed with random ones.

`most_informative_first` is for a model with a posterior over its weights: D-optimal, one pair after the other, so that
the pairs of a batch do not tell the same. `telling_first` is for models without: where they disagree and are undecided.
The most undecided pairs alone teach less than random ones: they are alike, and often undecidable. So of each batch of
ten, seven are chosen and three drawn, and at most two are of one prompt.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .pairs import PreferencePair

BATCH = 10
CHOSEN = 7
"""Of each batch by `doubt`; the others are drawn."""
PER_PROMPT = 2
"""Of one prompt in a batch, while others are left."""
LOOKAHEAD = 1000
"""Pairs after which it is no longer followed what those before them will have told: train again by then."""


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


def most_informative_first(
    pairs: Sequence[PreferencePair], told: NDArray[np.float64], seed: int = 0, lookahead: int = LOOKAHEAD
) -> list[str]:
    """Return the ids of all ``pairs``, the most informative first: greedily D-optimal (Fedorov 1972).

    ``told (P, K)`` has a row u for each pair, √E[p (1 − p)] · Σ^½ (x_left − x_right): a vote on it adds u uᵀ to the
    information, in units in which the model's posterior has the covariance I. What a pair adds to the logarithm of
    the determinant is log(1 + uᵀ A⁻¹ u), A being what the pairs before it have told.
    """
    u = np.asarray(told, dtype=np.float32)
    if u.ndim != 2 or len(u) != len(pairs) or not np.isfinite(u).all():
        raise ValueError(f"information {u.shape} of {len(pairs)} pairs: one finite row each")
    left = np.einsum("pk,pk->p", u, u)  # uᵀ A⁻¹ u
    open_ = np.ones(len(u), dtype=bool)
    drawn = iter(np.random.default_rng(seed).permutation(len(u)).tolist())
    known = np.zeros((min(lookahead, len(u)), u.shape[1]), dtype=np.float32)
    order: list[int] = []
    while len(order) < len(u):
        prompts: Counter[str] = Counter()
        for place in range(BATCH):
            row = _best(left, open_, pairs, prompts) if place < CHOSEN else _drawn(drawn, open_)
            if row is None:
                break
            open_[row] = False
            prompts[pairs[row].prompt] += 1
            if len(order) < len(known):
                b = (u[row] - (known[: len(order)] @ u[row]) @ known[: len(order)]) / np.sqrt(1 + left[row])
                known[len(order)] = b
                left = np.maximum(left - (u @ b) ** 2, 0)
            order.append(row)
    return [pairs[row].pair for row in order]


def _best(
    left: NDArray[np.float32], open_: NDArray[np.bool_], pairs: Sequence[PreferencePair], prompts: Counter[str]
) -> int | None:
    """Return the open row that tells most, of a prompt that is not used up in this batch if there is one."""
    full = {prompt for prompt, count in prompts.items() if count >= PER_PROMPT}
    found: int | None = None
    for row in np.argsort(-np.where(open_, left, -1), kind="stable").tolist():
        if not open_[row]:
            break
        if pairs[row].prompt not in full:
            return int(row)
        found = row if found is None else found
    return found


def _drawn(rows: Iterator[int], open_: NDArray[np.bool_]) -> int | None:
    return next((row for row in rows if open_[row]), None)


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
