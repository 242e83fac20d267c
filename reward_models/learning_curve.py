"""What more labels would gain: the accuracy on unseen pairs against the number of pairs learnt from, carried on.

Measured by cross-validation over all pairs with a ridge head on the model's evidence, prompts whole; the held-out pairs
choose nothing. Carried on as accuracy = a − b / √n, the law of a model whose only shortcoming is variance.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlhf_images.progress import progress
from rlhf_images.randomness import Randomness

from .comparisons import Comparisons
from .cross_validation import FOLDS, fold_of, ridge_of
from .davidson import Newton, Votes, prior_variance, reduced

SHARES = (1.0, 0.5, 0.25, 0.125)
REPEATS = 4
"""Of each share of the pairs, other ones every time."""
CHEAP = 5e6
"""Pairs × features above which one fold and one repeat must do."""
FEWEST = 40
"""Decided pairs below which nothing is carried on, and pairs below which nothing is learnt from."""
SMALLEST = 10


@final
@dataclass(frozen=True)
class Point:
    """The mean ``accuracy`` on unseen decided pairs after learning from about ``n`` pairs."""

    n: int
    accuracy: float


@final
@dataclass(frozen=True)
class LearningCurve:
    """The points, from the most to the fewest pairs, and what they promise."""

    points: list[Point]
    more: int
    """Labels that are thought of."""
    gain: float | None
    """What they would add to the accuracy, as a share; None where it cannot be told."""
    words: str


def learning_curve(
    evidence: Tensor, data: Comparisons, group: NDArray[np.int64], spread: float, seed: int
) -> LearningCurve:
    """Return the curve for ``evidence (N, D)`` of the pictures of ``data``, under the ridge that ``spread`` means."""
    x = evidence.double()
    variance = prior_variance(x)
    difference, votes = reduced(x[data.left] - x[data.right])[1], Votes.of(data)
    folds = min(FOLDS, len(set(group.tolist())))
    decided = int((votes.target != 0.5).sum())
    if folds < 2 or decided < FEWEST:
        return LearningCurve([], 0, None, f"{decided} decided pairs are too few to tell what more would gain.")
    cheap = difference.numel() <= CHEAP
    fold = np.array(fold_of(group, folds, seed))
    runs = [(share, k, r) for share in SHARES for k in range(folds if cheap else 1) for r in range(REPEATS)]
    found: dict[float, list[tuple[float, float, int]]] = {}
    for share, k, repeat in progress(runs, "learning curve"):
        if repeat and (share == 1 or not cheap):
            continue
        seen = _some(np.flatnonzero(fold != k), group, share, Randomness(seed, k), repeat)
        unseen = np.flatnonzero((fold == k) & (votes.target != 0.5).numpy())
        if len(seen) < SMALLEST or not len(unseen):
            continue
        fit = Newton(difference[seen], votes[seen.tolist()]).fit(ridge_of(spread, variance))
        right = (difference[unseen] @ fit.weights > 0) == (votes.target[unseen] > 0.5)
        found.setdefault(share, []).append((len(seen), float(right.sum()), len(unseen)))
    points = []
    for runs_of_share in found.values():
        size, correct, asked = np.array(runs_of_share).T
        points.append(Point(round(float(size.mean())), round(float(correct.sum() / asked.sum()), 6)))
    return _carried_on(points, len(difference), decided)


def _carried_on(points: list[Point], pairs: int, decided: int) -> LearningCurve:
    """Return the curve with the promise of as many labels again as there are, rounded, at most 1,000."""
    more = min(1000, max(50, 10 ** (len(str(pairs)) - 1) * round(pairs / 10 ** (len(str(pairs)) - 1))))
    if len(points) < 3:
        return LearningCurve(points, more, None, f"{pairs} pairs are too few to tell what more would gain.")
    size = np.array([point.n for point in points], dtype=np.float64)
    accuracy = np.array([point.accuracy for point in points])
    slope, _ = np.polyfit(size**-0.5, accuracy, 1)
    gain = float(-slope * (pairs**-0.5 - (pairs + more) ** -0.5))
    noise = 0.5 / decided**0.5  # of one accuracy; the points share their pairs, so that their differences have less
    if gain < noise / 4:
        return LearningCurve(points, more, round(gain, 6), f"{more} more labels would gain little, if anything.")
    words = f"{more} more labels would gain about {100 * gain:.1f} points of accuracy."
    return LearningCurve(points, more, round(gain, 6), words)


def _some(
    rows: NDArray[np.int64], group: NDArray[np.int64], share: float, randomness: Randomness, repeat: int
) -> NDArray[np.int64]:
    """Return about ``share`` of ``rows``, whole groups of them."""
    names = list(dict.fromkeys(group[rows].tolist()))
    order = [names[i] for i in randomness.permutation("learning curve", len(names), repeat)]
    members: dict[int, list[int]] = {name: [] for name in names}
    for row in rows.tolist():
        members[int(group[row])].append(row)
    taken: list[int] = []
    for name in order:
        if len(taken) >= share * len(rows):
            break
        taken += members[name]
    return np.array(sorted(taken), dtype=np.int64)
