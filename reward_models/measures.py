"""How a model agrees with votes: accuracy, log-loss, whether its chances come true, ties, and with whom and on what."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rlhf_images.preferences import Event, LabelledPair
from rlhf_images.statistics import mean_estimate

from .comparisons import Comparisons

RESAMPLES = 2000
BINS = 10
"""Of the calibration, with as many pairs in each."""
TIE_BINS = 5
DRAWS = 500
"""Of the votes, for what chance alone does to the calibration."""


@final
@dataclass(frozen=True)
class Agreement:
    """How a model agrees with votes. Pairs whose votes are tied are left out of the accuracy, not of the loss."""

    accuracy: float | None
    interval: tuple[float, float] | None
    """95 % of the accuracy, by a bootstrap over groups of pairs."""
    nll: float
    """Mean -q log p - (1-q) log(1-p), in nats a pair; ln 2 = 0.693 is guessing."""
    decided: int
    """How many pairs were not tied."""


@final
@dataclass(frozen=True)
class Bin:
    """Pairs of about the same margin: what the model expected of them, and what happened."""

    expected: float
    observed: float
    n: int


@final
@dataclass(frozen=True)
class Part:
    """The agreement on a part of the votes: of one annotator, or on one criterion."""

    accuracy: float
    low: float
    high: float
    n: int


def agreement(score: Tensor, data: Comparisons, pairs: list[int], group: NDArray[np.int64], seed: int) -> Agreement:
    """Return how ``score (N,)`` agrees with the votes on ``pairs``, whose ``group (P,)`` says which err together."""
    margin = score[data.left[pairs]] - score[data.right[pairs]]
    target = data.target[pairs]
    nll = binary_cross_entropy_with_logits(margin, target).item()
    decided = (target != 0.5).numpy()
    if not decided.any():
        return Agreement(None, None, round(nll, 6), 0)
    correct = torch.where(margin == 0, 0.5, ((margin > 0) == (target > 0.5)).float()).numpy()[decided]
    estimate = mean_estimate(correct, group[pairs][decided].tolist(), seed, RESAMPLES)
    interval = (round(estimate.low, 6), round(estimate.high, 6))
    return Agreement(round(estimate.value, 6), interval, round(nll, 6), estimate.n)


def calibration(score: Tensor, data: Comparisons, pairs: list[int]) -> tuple[float, list[Bin]] | None:
    """Return the expected calibration error on decided ``pairs``, and its bins of equally many pairs.

    Σ n/N |how often the favourite was preferred − the chance given to it|, over bins of that chance. Even a perfect
    model has some: see `calibration_by_chance`.
    """
    rows = _decided(data, pairs)
    if not len(rows):
        return None
    margin, target = _margin(score, data, rows), data.target[rows]
    chance = torch.sigmoid(margin.abs())
    came_true = torch.where(margin >= 0, target, 1 - target)
    parts = _parts(chance)
    bins = [Bin(_mean(chance[part]), _mean(came_true[part]), len(part)) for part in parts]
    error = sum(one.n * abs(one.expected - one.observed) for one in bins) / len(chance)
    return round(error, 6), bins


def calibration_by_chance(score: Tensor, data: Comparisons, pairs: list[int], votes: Tensor) -> float | None:
    """Return the calibration error expected of a model whose chances are all true, on as many pairs and votes.

    ``votes (P,)`` is how many every pair has; they are drawn `DRAWS` times from the chances that ``score`` gives.
    """
    rows = _decided(data, pairs)
    if not len(rows):
        return None
    chance = torch.sigmoid(_margin(score, data, rows).abs())
    count = votes[rows].round().clamp(min=1).expand(DRAWS, -1)
    drawn = torch.binomial(count, chance.expand(DRAWS, -1), torch.Generator().manual_seed(0)) / count
    off = [(drawn[:, part].mean(1) - chance[part].mean()).abs() * len(part) for part in _parts(chance)]
    return round(float(torch.stack(off).sum(0).mean()) / len(rows), 6)


def tie_curve(score: Tensor, data: Comparisons, pairs: list[int]) -> list[Bin]:
    """Return the share of ties by the distance of the scores: ``expected`` is that distance, the median of its bin.

    Where ties mean anything it falls. Empty where nobody gave one.
    """
    distance = (score[data.left[pairs]] - score[data.right[pairs]]).abs()
    tie = data.tie[pairs]
    if not len(tie) or not bool((tie > 0).any()):
        return []
    parts = torch.tensor_split(distance.argsort(stable=True), min(TIE_BINS, len(distance)))
    return [Bin(round(float(distance[part].median()), 4), _mean(tie[part]), len(part)) for part in parts]


def by_annotator(
    score: Tensor,
    data: Comparisons,
    pairs: list[int],
    labelled: Sequence[LabelledPair],
    votes: Sequence[Event],
    group: NDArray[np.int64],
    seed: int,
) -> dict[str, Part]:
    """Return the agreement with each annotator's own decided ``votes`` on ``pairs``, the one with most votes first."""
    place = {labelled[pair].pair.pair: pair for pair in pairs}
    right: dict[str, list[tuple[float, int]]] = {}
    for vote in votes:
        pair = place.get(vote.pair)
        if pair is not None and vote.choice in ("left", "right"):
            margin = float(score[data.left[pair]] - score[data.right[pair]])
            correct = 0.5 if margin == 0 else float((margin > 0) == (vote.choice == "left"))
            right.setdefault(vote.annotator, []).append((correct, int(group[pair])))
    ordered = sorted(right.items(), key=lambda item: (-len(item[1]), item[0]))
    return {name: _part([c for c, _ in rows], [g for _, g in rows], seed) for name, rows in ordered}


def by_criterion(
    score: Tensor,
    data: Comparisons,
    pairs: list[int],
    labelled: Sequence[LabelledPair],
    group: NDArray[np.int64],
    seed: int,
) -> dict[str, Part]:
    """Return the agreement on the decided ``pairs`` of each criterion; nothing where no pair has one."""
    found: dict[str, list[int]] = {}
    for pair in pairs:
        found.setdefault(labelled[pair].pair.criterion, []).append(pair)
    parts = {}
    for name, own in sorted(found.items()):
        part = agreement(score, data, own, group, seed)
        if part.accuracy is not None and part.interval is not None:
            parts[name or "not told"] = Part(part.accuracy, *part.interval, part.decided)
    return parts if set(found) != {""} else {}


def _decided(data: Comparisons, pairs: list[int]) -> Tensor:
    """Return those of ``pairs`` that are not tied."""
    rows = torch.tensor(pairs, dtype=torch.long)
    return rows[data.target[rows] != 0.5]


def _margin(score: Tensor, data: Comparisons, rows: Tensor) -> Tensor:
    return score[data.left[rows]] - score[data.right[rows]]


def _parts(chance: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of ``chance (N,)`` from the smallest to the largest, in bins of equally many."""
    return torch.tensor_split(chance.argsort(stable=True), min(BINS, len(chance)))


def _part(correct: list[float], clusters: Sequence[Hashable], seed: int) -> Part:
    estimate = mean_estimate(correct, clusters, seed, RESAMPLES)
    return Part(round(estimate.value, 6), round(estimate.low, 6), round(estimate.high, 6), estimate.n)


def _mean(values: Tensor) -> float:
    return round(float(values.double().mean()), 6)
