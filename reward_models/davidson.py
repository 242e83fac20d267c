"""Which of two is preferred, or neither: Bradley–Terry with ties (Davidson 1970), linear, under a ridge, by Newton.

With the difference of two scores d = (x_left − x_right) · w, in log-odds among decided votes, and a tie width ν ≥ 0:

    P(left) = e^(d/2) / Z      P(tie) = ν / Z      P(right) = e^(−d/2) / Z      Z = e^(d/2) + ν + e^(−d/2)

    minimised: Σ weight · (log Z − (target − ½) d − tie · log ν) + ridge/2 |w|²

``target`` is the share of votes for the left one, a tie counting half, and ``tie`` the share of ties: all labels are
soft. It is convex in (w, log ν). Everything is in float64.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .comparisons import Comparisons

WIDTH_SPREAD = 5.0
"""Standard deviation, a priori, of log ν: keeps it finite where all votes are ties."""
STEPS = 200
"""Newton steps at most; about five are needed."""


@final
@dataclass(frozen=True)
class Votes:
    """What was said of ``P`` pairs, each ``(P,)`` in float64."""

    target: Tensor
    tie: Tensor
    weight: Tensor

    @classmethod
    def of(cls, data: Comparisons) -> "Votes":
        """Return the votes of ``data``."""
        return cls(data.target.double(), data.tie.double(), data.weight.double())

    def __getitem__(self, rows: Tensor | list[int]) -> "Votes":
        return Votes(self.target[rows], self.tie[rows], self.weight[rows])


@final
@dataclass(frozen=True)
class Fit:
    """A minimum: ``weights (D,)`` and the tie width ν, 0 where no vote was a tie."""

    weights: Tensor
    width: float


def chances(d: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Return P(left) and P(tie) of differences ``d``; P(left) + ½ P(tie) is the expected `Votes.target`."""
    small = torch.exp(-d.abs())
    tie = width * small.sqrt()
    z = 1 + small + tie
    return torch.where(d > 0, 1 / z, small / z), tie / z


def losses(d: Tensor, width: float, votes: Votes) -> Tensor:
    """Return the negative log-likelihood of each pair ``(P,)``, in nats, before its weight."""
    z = d.abs() / 2 + torch.log1p(torch.exp(-d.abs()) + width * torch.exp(-d.abs() / 2))
    ties = votes.tie * math.log(width) if width > 0 else 0.0
    return z - (votes.target - 0.5) * d - ties


def slopes(d: Tensor, width: float, votes: Votes) -> Tensor:
    """Return the derivative of each pair's loss by its ``d``: expected less told share of the left one."""
    left, tie = chances(d, width)
    return left + tie / 2 - votes.target


def curvatures(d: Tensor, width: float) -> Tensor:
    """Return the second derivative of each pair's loss by ``d``: (P(left) + P(right) − (P(left) − P(right))²) / 4."""
    left, tie = chances(d, width)
    return (1 - tie - (2 * left + tie - 1).square()) / 4


def tie_width(d: Tensor, votes: Votes) -> float:
    """Return the ν that is likeliest where the differences are ``d``."""
    if not bool((votes.weight * votes.tie).sum() > 0):
        return 0.0
    eta = 0.0
    for _ in range(STEPS):
        tie = chances(d, math.exp(eta))[1]
        slope = float((votes.weight * (tie - votes.tie)).sum()) + eta / WIDTH_SPREAD**2
        bend = float((votes.weight * tie * (1 - tie)).sum()) + 1 / WIDTH_SPREAD**2
        eta -= max(-1.0, min(1.0, slope / bend))
        if abs(slope) < 1e-10 * (1 + len(d)):
            break
    return math.exp(eta)


@final
class Newton:
    """The minimum for any ridge, of ``differences (P, D)`` of features and the ``votes`` on them.

    The Hessian is kept from step to step and from ridge to ridge, by its eigenvectors, for as long as the steps that it
    gives converge fast: only it is expensive. The tie width is minimised exactly before each step.
    """

    def __init__(self, differences: Tensor, votes: Votes) -> None:
        self.x, self.votes = differences.double(), votes
        self._values, self._vectors = torch.zeros(0), torch.zeros(0)

    def fit(self, ridge: float, start: Fit | None = None) -> Fit:
        """Return the minimum under ``ridge``, sought from ``start``."""
        w = torch.zeros(self.x.shape[1], dtype=torch.float64) if start is None else start.weights
        d = self.x @ w
        last, fresh = math.inf, False
        for _ in range(STEPS):
            width = tie_width(d, self.votes)
            gradient = self.gradient(d, width) + ridge * w
            if not len(self._values):
                self._values, self._vectors = torch.linalg.eigh(self.hessian(d, width))
                fresh = True
            step = self._vectors @ ((self._vectors.T @ gradient) / (self._values.clamp(min=0) + ridge))
            decrement = float(gradient @ step)
            if decrement < 1e-12 * (1 + float(self.votes.weight.sum())):
                w, d = w - step, d - self.x @ step  # so near the full step only helps, and no loss could tell
                break
            if decrement > last / 4 and not fresh:
                self._values, last = torch.zeros(0), math.inf
                continue
            last, fresh = decrement, False
            w, d = self._shorter(w, d, step, decrement, width, ridge)
        return Fit(w, tie_width(d, self.votes))

    def gradient(self, d: Tensor, width: float) -> Tensor:
        """Return the gradient ``(D,)`` of the loss, without the ridge."""
        return self.x.T @ (self.votes.weight * slopes(d, width, self.votes))

    def hessian(self, d: Tensor, width: float) -> Tensor:
        """Return the Hessian ``(D, D)`` of the loss by w, without the ridge."""
        return self.x.T @ ((self.votes.weight * curvatures(d, width))[:, None] * self.x)

    def _shorter(
        self, w: Tensor, d: Tensor, step: Tensor, decrement: float, width: float, ridge: float
    ) -> tuple[Tensor, Tensor]:
        """Return w and d after as much of ``step`` as lowers the loss enough."""
        along = self.x @ step

        def loss(length: float) -> float:
            moved = losses(d - length * along, width, self.votes)
            return float((self.votes.weight * moved).sum() + ridge / 2 * (w - length * step).square().sum())

        before, length = loss(0.0), 1.0
        while loss(length) > before - 1e-4 * length * decrement and length > 1e-6:
            length /= 2
        return w - length * step, d - length * along


def prior_variance(x: Tensor) -> float:
    """Return the mean variance, a priori under ridge 1, of the scores of ``x (N, D)`` around their mean.

    1 where no picture differs from another: then no weight is moved, and any ridge will do but none.
    """
    return float((x - x.mean(0)).square().sum(1).mean()) or 1.0


def reduced(difference: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the directions ``(D, K)`` that differences ``(P, D)`` span, and them in those ``(P, K)``.

    Where there are more features than pairs, w never leaves that span. None stands for all directions.
    """
    if difference.shape[1] <= difference.shape[0]:
        return None, difference
    span, inner = torch.linalg.qr(difference.T)
    return span, inner.T
