"""How cautious a head must be, and how sure: its ridge and its temperature, by folds that keep a prompt together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from rlhf_images.progress import progress
from rlhf_images.randomness import Randomness

from .davidson import Fit, Newton, Votes, losses, tie_width

FOLDS = 5
ENOUGH = 10
"""Pairs from which on those left out say something: fewer are easily right by chance, and the wildest spread wins."""
SPREADS = tuple(2 ** (k / 2) for k in range(-8, 11))
"""What is tried as the standard deviation, a priori, of a picture's score in log-odds: from 1/16 to 32.

All are tried: where votes were asked for because they are close calls, what is unseen may be told worse and worse
before it is told well (see the tests)."""
TEMPERATURE_SPREAD = 0.5
"""Of log temperature around 0, a priori: a few dozen votes do not tell it."""


@final
@dataclass(frozen=True)
class Chosen:
    """What the folds said."""

    spread: float
    """The a priori standard deviation of a score under which unseen votes were likeliest."""
    temperature: float
    """By what scores of unseen pairs must be divided to be log-odds."""
    width: float
    """The tie width ν at that temperature."""
    margins: Tensor | None
    """Score of left less right ``(P,)``, before the temperature, by the fit that saw none of the pair's fold."""
    folds: int


def fold_of(group: NDArray[np.int64], folds: int, seed: int) -> list[int]:
    """Return a fold for each pair ``(P,)``, about equally large ones, the same for all pairs of a ``group``."""
    members: dict[int, list[int]] = {}
    for position, name in enumerate(group.tolist()):
        members.setdefault(name, []).append(position)
    groups = list(members.values())
    shuffled = [groups[i] for i in Randomness(seed).permutation("folds", len(groups))]
    sizes, fold = [0] * folds, [0] * len(group)
    for pairs in sorted(shuffled, key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(pairs)
        for position in pairs:
            fold[position] = smallest
    return fold


def ridge_of(spread: float, prior_variance: float) -> float:
    """Return the ridge under which scores deviate by ``spread`` a priori; ``prior_variance`` is that under ridge 1."""
    return prior_variance / spread**2


def choose(
    x: Tensor, votes: Votes, group: NDArray[np.int64], prior_variance: float, seed: int, spread: float | None = None
) -> Chosen:
    """Return spread and temperature for differences ``x (P, D)``, those under which unseen ``votes`` are likeliest.

    With fewer than two groups nothing can be left out, and fewer than `ENOUGH` pairs say nothing: then the spread is 1,
    or the one given, and so the temperature.
    """
    folds = min(FOLDS, len(set(group.tolist())))
    if folds < 2 or len(x) < ENOUGH:
        width = tie_width(torch.zeros(len(x), dtype=torch.float64), votes)
        return Chosen(spread or 1.0, 1.0, width, None, 0)
    fold = torch.tensor(fold_of(group, folds, seed))
    parts = [((fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]) for k in range(folds)]
    solvers = [Newton(x[seen], votes[seen]) for seen, _ in parts]
    fits: list[Fit | None] = [None] * folds
    best, found = math.inf, (1.0, torch.zeros(len(x), dtype=torch.float64))
    tried: Sequence[float] = SPREADS if spread is None else (spread,)
    for candidate in progress(tried, "choosing the ridge"):
        margins = torch.zeros(len(x), dtype=torch.float64)
        total = 0.0
        for k, (solver, (_, unseen)) in enumerate(zip(solvers, parts, strict=True)):
            fit = fits[k] = solver.fit(ridge_of(candidate, prior_variance), fits[k])
            margins[unseen] = x[unseen] @ fit.weights
            total += _loss(margins[unseen], fit.width, votes[unseen])
        if total < best:
            best, found = total, (candidate, margins)
    temperature, width = _calibrated(found[1], votes)
    return Chosen(found[0], temperature, width, found[1], folds)


def _calibrated(margins: Tensor, votes: Votes) -> tuple[float, float]:
    """Return the temperature, and with it the tie width, that make the ``margins`` of unseen pairs likeliest."""

    def cost(log_temperature: float) -> float:
        d = margins / math.exp(log_temperature)
        return _loss(d, tie_width(d, votes), votes) + (log_temperature / TEMPERATURE_SPREAD) ** 2 / 2

    found = math.exp(minimize_scalar(cost, bounds=(-3, 3), method="bounded", options={"xatol": 1e-4}).x)
    return found, tie_width(margins / found, votes)


def _loss(d: Tensor, width: float, votes: Votes) -> float:
    if width == 0 and bool((votes.tie > 0).any()):  # no tie among those seen: one in a hundred could have been
        width = 0.02
    return float((votes.weight * losses(d, width, votes)).sum())
