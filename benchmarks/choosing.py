"""What to label next: is a chosen vote worth 1.6 random ones?

python benchmarks/choosing.py [learnt] [seldom] [told] [equal] [possible] prints a table for each, of the simulated
taste of reward_heads.py: 20 random votes, then out of 3,000 pairs those that the head would learn most from, trained
anew every 10 votes and from 200 on every 50. `seldom`: trained anew only at the sizes shown, as a person would. `told`:
heads that know how clear the taste is, and have to find only its direction. `equal`: all features vary alike.
`possible`: what the best choice imaginable reaches that looks one vote ahead.

All is paired: the seeds share world, pool and first votes, and the standard error is of the differences.
"""

import sys
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from reward_heads import CLEAR, FEATURES, World, fitted, true_accuracy, world
from torch import Tensor

from reward_models.cross_validation import ridge_of
from reward_models.davidson import Fit
from rlhf_images.doubts import expected_information
from rlhf_images.preferences import PreferencePair
from rlhf_images.preferences import order as asking
from rlhf_images.progress import progress

SEEDS, POOL, START = 20, 3000, 20
SIZES = (50, 100, 200, 400, 800)
MORE = 1.6
"""What a chosen vote is to be worth."""


def choosing(told: bool = False, falling: float = 0.5, often: bool = True, sizes: Sequence[int] = SIZES) -> None:
    """D-optimal choice at n votes, with 30 % random votes among them and without, against random ones at 1.6 n."""
    more = [round(MORE * n) for n in sizes]
    found: dict[str, list[list[float]]] = {name: [] for name in ("at n", "at 1.6 n", "kept", "alone")}
    for seed in progress(range(SEEDS), "choosing"):
        drawn = world(seed, POOL, falling)
        for name, counts in (("at n", list(sizes)), ("at 1.6 n", more)):
            fits = [fitted(drawn, list(range(n)), seed, told)[0] for n in counts]
            found[name].append([true_accuracy(drawn, fit) for fit in fits])
        for name, share in (("kept", 7), ("alone", 10)):
            found[name].append(chosen_by(drawn, seed, sizes, share, told, often))
    plain, target, kept, alone = (np.array(runs) for runs in found.values())
    print("| votes n | random | random at 1.6 n | D-optimal, 30 % random kept | less 1.6 n | alone | less 1.6 n |")
    print("|---|---|---|---|---|---|---|")
    for k, n in enumerate(sizes):
        middle = [f"{np.median(runs[:, k]):.3f}" for runs in (plain, target, kept, alone)]
        gaps = [_gap(runs[:, k], target[:, k]) for runs in (kept, alone)]
        print(f"| {n} | {middle[0]} | {middle[1]} | {middle[2]} | {gaps[0]} | {middle[3]} | {gaps[1]} |", flush=True)


def _gap(found: np.ndarray, against: np.ndarray) -> str:
    gap = found - against
    return f"{gap.mean():+.3f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.3f}"


def chosen_by(drawn: World, seed: int, sizes: Sequence[int], share: int, told: bool, often: bool) -> list[float]:
    """Return the accuracies at ``sizes`` votes, ``share`` of ten being chosen."""
    before, asking.CHOSEN = asking.CHOSEN, share
    rows, accuracies = list(range(START)), []
    while len(accuracies) < len(sizes):
        fit, temperature, posterior = fitted(drawn, rows, seed, told)
        rest = sorted(set(range(POOL)) - set(rows))
        between = posterior.factors(drawn.x[rest]) / temperature
        information = expected_information(drawn.x[rest] @ fit.weights / temperature, between)
        pairs = [PreferencePair(str(row), str(row), "l", "r") for row in rest]
        count = sizes[len(accuracies)] - len(rows)
        if often:
            count = min(count, 10 if len(rows) < 200 else 50)
        rows += [int(name) for name in asking.most_informative_first(pairs, information.numpy(), seed, count)[:count]]
        if len(rows) == sizes[len(accuracies)]:
            accuracies.append(true_accuracy(drawn, fitted(drawn, rows, seed, told)[0]))
    asking.CHOSEN = before
    return accuracies


@final
class Tastes:
    """Draws ``w (M, D)`` from the exact posterior of a taste whose clarity is known, kept true vote by vote.

    By sequential Monte Carlo: a vote draws anew among the tastes by how likely each made it, and Hamiltonian steps in
    their own covariance tell the copies apart.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._source = torch.Generator().manual_seed(seed)
        self._ridge = ridge_of(CLEAR, float(FEATURES))
        self.w = self._normal(count) / self._ridge**0.5
        self._x, self._left = torch.zeros(0, FEATURES).double(), torch.zeros(0).double()

    def vote(self, x: Tensor, left: Tensor, moves: int = 3) -> None:
        """Take in a vote on the pair of difference ``x (D,)``: 1 for the left one, 0 for the right one."""
        self._x, self._left = torch.cat([self._x, x[None]]), torch.cat([self._left, left[None]])
        likely = torch.sigmoid((2 * left - 1) * (self.w @ x))
        first = torch.rand(1, generator=self._source, dtype=torch.float64)
        even = (torch.arange(len(likely)) + first) / len(likely)
        place = torch.searchsorted((likely / likely.sum()).cumsum(0), even)
        self.w = self.w[place.clamp(max=len(likely) - 1)]
        unit = torch.linalg.cholesky(torch.cov(self.w.T) + 1e-6 / self._ridge * torch.eye(FEATURES)).T
        for _ in range(moves):
            self._move(unit)

    def mean(self) -> Tensor:
        """Return the mean taste ``(D,)``."""
        return self.w.mean(0)

    def expected_accuracy(self, x: Tensor, tests: Tensor) -> Tensor:
        """Return, for a vote on each pair ``x (P, D)``, on how many ``tests (T, D)`` one will be right after it."""
        left = torch.sigmoid(x @ self.w.T).float()
        preferred = (tests @ self.w.T > 0).float()
        wins = left.sum(1)
        if_left = preferred @ left.T / wins
        if_right = preferred @ (1 - left).T / (len(self.w) - wins).clamp(min=1e-6)
        right = [torch.maximum(p, 1 - p).mean(0) for p in (if_left, if_right)]
        return (wins * right[0] + (len(self.w) - wins) * right[1]) / len(self.w)

    def _move(self, unit: Tensor, leaps: int = 6, length: float = 0.25) -> None:
        momentum = self._normal(len(self.w))
        cost, slope = self._energy(self.w)
        moved, pushed = self.w, momentum - length / 2 * slope @ unit.T
        for leap in range(leaps):
            moved = moved + length * pushed @ unit
            new_cost, slope = self._energy(moved)
            pushed = pushed - (length if leap < leaps - 1 else length / 2) * slope @ unit.T
        gained = cost + momentum.square().sum(1) / 2 - new_cost - pushed.square().sum(1) / 2
        taken = torch.rand(len(gained), generator=self._source, dtype=torch.float64).log() < gained
        self.w = torch.where(taken[:, None], moved, self.w)

    def _energy(self, w: Tensor) -> tuple[Tensor, Tensor]:
        d = w @ self._x.T
        cost = (torch.nn.functional.softplus(d) - d * self._left).sum(1) + self._ridge / 2 * w.square().sum(1)
        return cost, (torch.sigmoid(d) - self._left) @ self._x + self._ridge * w

    def _normal(self, count: int) -> Tensor:
        return torch.randn(count, FEATURES, generator=self._source, dtype=torch.float64)


def possible(sizes: Sequence[int] = (50, 100), tastes: int = 1000, tests: int = 600) -> None:
    """What somebody reaches who knows how clear the taste is and has its exact posterior, chooses every single vote.

    Each is the one of the 3,000 after which the expected accuracy on other pairs is the highest; scores are by the mean
    taste. No posterior is a Gaussian, no batch is chosen at once, no vote is random: what it misses, D-optimal heads
    that have to find out all of that will hardly reach.
    """
    more = [round(MORE * n) for n in sizes]
    chosen, plain = [], []
    for seed in progress(range(SEEDS), "choosing"):
        drawn = world(seed, POOL)
        chosen.append(_exact(drawn, seed, sizes, tastes, tests))
        plain.append(_exact(drawn, seed, more, tastes, 0))
    print("| votes n | random at 1.6 n | chosen by the exact posterior | less 1.6 n |")
    print("|---|---|---|---|")
    for n, found, against in zip(sizes, np.array(chosen).T, np.array(plain).T, strict=True):
        print(f"| {n} | {np.median(against):.3f} | {np.median(found):.3f} | {_gap(found, against)} |", flush=True)


def _exact(drawn: World, seed: int, sizes: Sequence[int], tastes: int, tests: int) -> list[float]:
    """Return the accuracies at ``sizes`` votes, chosen by what ``tests`` other pairs would gain; 0 is at random."""
    known = Tastes(tastes, seed)
    asked, accuracies = torch.zeros(POOL, dtype=torch.bool), []
    others = drawn.x[torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))[:tests]]
    for count in range(1, max(sizes) + 1):
        row = count - 1
        if tests:
            row = int(known.expected_accuracy(drawn.x[:POOL], others).masked_fill(asked, -1).argmax())
        asked[row] = True
        known.vote(drawn.x[row], drawn.votes.target[row], 20 if count in sizes else 3)
        if count in sizes:
            accuracies.append(true_accuracy(drawn, Fit(known.mean(), 0.0)))
    return accuracies


def main() -> None:
    """Run what is named; without a name all."""
    runs = {
        "learnt": choosing,
        "seldom": lambda: choosing(often=False, sizes=SIZES[1:]),
        "told": lambda: choosing(told=True),
        "equal": lambda: choosing(falling=0.0),
        "possible": possible,
    }
    for name in sys.argv[1:] or runs:
        print(f"\n## {name}\n", flush=True)
        runs[name]()


if __name__ == "__main__":
    main()
