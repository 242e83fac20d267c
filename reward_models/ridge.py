"""What votes teach a score that is linear in some evidence, as cautious and as sure of itself as unseen votes want it.

    score = w · x

w is the minimum of `davidson` under the ridge of `cross_validation`, divided by its temperature: differences are in
log-odds. Only the pairs that teach are looked at.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from .cross_validation import Chosen, choose, ridge_of
from .davidson import Newton, Votes, prior_variance, reduced
from .family import Lesson
from .posterior import Posterior


@final
@dataclass(frozen=True)
class Weighed:
    """The weights ``(D,)`` and how sure they are, both in log-odds and float64, and what the folds chose."""

    weights: Tensor
    posterior: Posterior
    chosen: Chosen


def weighed(x: Tensor, lesson: Lesson, spread: float | None, keep: int) -> Weighed:
    """Return what the training pairs of ``lesson`` teach about the evidence ``x (N, D)`` of its pictures, in float64.

    ``spread`` is the a priori standard deviation of a score, chosen if None; the posterior has ``keep`` directions at
    most.
    """
    data, train = lesson.data, lesson.split.train
    span, difference = reduced(x[data.left[train]] - x[data.right[train]])
    votes, variance = Votes.of(data)[train], prior_variance(x[data.shown(train)])
    chosen = choose(difference, votes, lesson.split.group[train], variance, lesson.seed, spread)
    solver, ridge = Newton(difference, votes), ridge_of(chosen.spread, variance)
    fit = solver.fit(ridge)
    hessian = solver.hessian(difference @ fit.weights, fit.width)
    weights = fit.weights if span is None else span @ fit.weights
    posterior = Posterior.of(hessian, ridge, span, keep)
    return Weighed(weights / chosen.temperature, posterior.scaled(1 / chosen.temperature), chosen)
