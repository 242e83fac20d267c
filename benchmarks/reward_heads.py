"""The head on frozen features against its targets: a taste recovered, time and memory, real picks.

python benchmarks/reward_heads.py [recovery] [time] [large] [colors FILE] prints a table for each; all but
`colors` need nothing. FILE is picks.jsonl of mpetroff/accessible-color-cycles: 700 picks of 7 people between two sets
of eight colours.

The simulated taste: 64 features whose variance falls as 1/k, in a random rotation, as an embedding's do; a random
direction is liked; scores have a standard deviation of 4 log-odds ("clear": 9 % of votes go against the taste). "true"
accuracies are against the taste itself, on 4,000 pairs that were never voted on.
"""

import itertools
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from reward_models.comparisons import Comparisons, Split, compared, split
from reward_models.cross_validation import choose, ridge_of
from reward_models.davidson import Fit, Newton, Votes
from reward_models.extractors import StatisticsExtractor
from reward_models.family import Lesson
from reward_models.feature_cache import FeatureCache
from reward_models.learning_curve import learning_curve
from reward_models.measures import calibration
from reward_models.posterior import Posterior
from reward_models.train import TrainRewardConfig, train_reward
from reward_models.train_head import HeadConfig, learn
from rlhf_images.data import encode
from rlhf_images.preferences import Choice, Event, Pairs, Picture, PreferencePair
from rlhf_images.preferences.events import other_side
from rlhf_images.preferences.formats import IMPORTERS
from rlhf_images.preferences.formats.importing import import_pairs
from rlhf_images.preferences.pairs import LabelledPair, picture_id
from rlhf_images.statistics import mean_estimate

FEATURES, TEST, CLEAR = 64, 4000, 4.0
SEEDS = 10
SAMPLED = 200
"""Votes up to which the best possible is sampled; with more it takes minutes."""


@dataclass(frozen=True)
class World:
    """Pairs with one vote each, and what is true of them; the last `TEST` are for testing."""

    x: Tensor
    d: Tensor
    votes: Votes


def world(seed: int, pairs: int, falling: float = 0.5) -> World:
    """Draw pictures, a taste, and one vote a pair."""
    source = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=source, dtype=torch.float64))[0]
    deviation = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -falling
    pictures = torch.randn(2, pairs + TEST, FEATURES, generator=source, dtype=torch.float64) * deviation @ turned
    pictures /= pictures.std((0, 1))
    taste = torch.randn(FEATURES, generator=source, dtype=torch.float64)
    x = pictures[0] - pictures[1]
    d = x @ (taste * CLEAR / (pictures @ taste).std())
    left = (torch.rand(pairs + TEST, generator=source, dtype=torch.float64) < torch.sigmoid(d)).double()
    return World(x, d, Votes(left, 0 * left, torch.ones_like(left)))


def fitted(drawn: World, rows: list[int], seed: int, told: bool = False) -> tuple[Fit, float, Posterior]:
    """Choose ridge and temperature on the pairs ``rows`` alone, unless ``told`` how clear the taste is, and fit."""
    x, votes = drawn.x[rows], drawn.votes[rows]
    spread, temperature = CLEAR, 1.0
    if not told:
        chosen = choose(x, votes, np.arange(len(rows)), float(FEATURES), seed)
        spread, temperature = chosen.spread, chosen.temperature
    solver, ridge = Newton(x, votes), ridge_of(spread, float(FEATURES))
    fit = solver.fit(ridge)
    return fit, temperature, Posterior.of(solver.hessian(x @ fit.weights, fit.width), ridge, None, FEATURES)


def true_accuracy(drawn: World, fit: Fit) -> float:
    """Return how often the head orders unseen pairs as the taste does."""
    return float(((drawn.x[-TEST:] @ fit.weights > 0) == (drawn.d[-TEST:] > 0)).double().mean())


def recovery() -> None:
    """Accuracy and calibration after 50, 200 and 800 votes."""
    told = "| variance of feature k | votes | true accuracy, mean of 10 (worst) | the best possible, mean of 10 |"
    print(f"{told} ECE on unseen votes, median (worst) |\n|---|---|---|---|---|")
    for falling, name in ((0.5, "1/k"), (0.0, "all equal")):
        for count in (50, 200, 800):
            accuracies, possible, errors = [], [], []
            for seed in range(SEEDS):
                drawn = world(seed, count, falling)
                fit, temperature, _ = fitted(drawn, list(range(count)), seed)
                accuracies.append(true_accuracy(drawn, fit))
                if count <= SAMPLED:
                    possible.append(true_accuracy(drawn, Fit(posterior_mean(drawn, count, seed), 0.0)))
                score = torch.cat([drawn.x[-TEST:] @ fit.weights / temperature, torch.zeros(TEST)]).float()
                errors.append(calibration(score, _tested(drawn), list(range(TEST)))[0])  # type: ignore[index]
            told = f"{np.mean(accuracies):.3f} ({min(accuracies):.3f})"
            best = f"{np.mean(possible):.3f}" if possible else ""
            print(f"| {name} | {count} | {told} | {best} | {np.median(errors):.3f} ({max(errors):.3f}) |", flush=True)


def posterior_mean(drawn: World, count: int, seed: int, chains: int = 16, steps: int = 400, leaps: int = 8) -> Tensor:
    """Return the mean weights ``(D,)`` after ``count`` votes under the prior that the taste was drawn from.

    It knows what a head must find out, how clear the taste is, and integrates where the head maximises: nothing orders
    unseen pairs much better. By Hamiltonian Monte Carlo in the units of Laplace's approximation.
    """
    x, target = drawn.x[:count], drawn.votes.target[:count]
    ridge = ridge_of(CLEAR, float(drawn.x.square().sum(1).mean()) / 2)
    solver = Newton(x, drawn.votes[list(range(count))])
    fit = solver.fit(ridge)
    precision = solver.hessian(x @ fit.weights, 0.0) + ridge * torch.eye(FEATURES, dtype=torch.float64)
    unit = torch.linalg.inv(torch.linalg.cholesky(precision))
    source = torch.Generator().manual_seed(seed)

    def energy(z: Tensor) -> tuple[Tensor, Tensor]:
        w = fit.weights + z @ unit
        d = w @ x.T
        lost = (torch.nn.functional.softplus(d) - d * target).sum(1) + ridge / 2 * w.square().sum(1)
        return lost, ((torch.sigmoid(d) - target) @ x + ridge * w) @ unit.T

    z = torch.randn(chains, FEATURES, generator=source, dtype=torch.float64)
    lost, slope = energy(z)
    total, length = torch.zeros(FEATURES, dtype=torch.float64), 0.25
    for step in range(steps):
        momentum = torch.randn(chains, FEATURES, generator=source, dtype=torch.float64)
        moved, pushed = z, momentum - length / 2 * slope
        for leap in range(leaps):
            moved = moved + length * pushed
            new_lost, new_slope = energy(moved)
            pushed = pushed - (length if leap < leaps - 1 else length / 2) * new_slope
        gained = lost + momentum.square().sum(1) / 2 - new_lost - pushed.square().sum(1) / 2
        taken = torch.rand(chains, generator=source, dtype=torch.float64).log() < gained
        z, slope = (torch.where(taken[:, None], *both) for both in ((moved, z), (new_slope, slope)))
        lost = torch.where(taken, new_lost, lost)
        if step >= steps // 4:
            total += (fit.weights + z @ unit).mean(0)
    return total / (steps - steps // 4)


def _tested(drawn: World) -> Comparisons:
    ids = [str(i) for i in range(2 * TEST)]
    left, target = torch.arange(TEST), drawn.votes.target[-TEST:].float()
    return Comparisons(ids, ids, left, left + TEST, target, 0 * target, torch.ones(TEST))


def clock() -> None:
    """300 pairs of pictures with their features kept: the whole stage, from folder to card."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = _drawn(Path(folder) / "pairs", 300, 256)
        extractor = StatisticsExtractor()
        ids = [side for pair in pairs.pairs for side in (pair.left, pair.right)]
        FeatureCache(pairs, extractor).blocks(ids, [""] * len(ids))
        begun, worked = time.perf_counter(), time.process_time()
        train_reward(TrainRewardConfig(str(pairs.folder), f"{folder}/reward", model=HeadConfig()))
        spent, work = time.perf_counter() - begun, time.process_time() - worked
    print(f"300 pairs of 256×256, features kept: {spent:.1f} s, {work:.1f} s of a processor, 16 pictures probed")


def _drawn(folder: Path, count: int, side: int) -> Pairs:
    """Write pairs of soft random pictures of 30 prompts; the brighter one is preferred, with a tenth of errors."""
    source = torch.Generator().manual_seed(0)
    rows = []
    for number in range(2 * count):
        coarse = torch.rand(1, 3, 8, 8, generator=source) * (0.4 + 0.6 * torch.rand(1, generator=source))
        image = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)[0]
        data = encode(image)
        rows.append((data, Picture(picture_id(data), f"prompt {number // 2 % 30}", 0, number, {}), float(image.mean())))
    pairs = [
        PreferencePair(f"{i:06d}", f"prompt {i % 30}", rows[2 * i][1].id, rows[2 * i + 1][1].id) for i in range(count)
    ]
    made = Pairs.create(folder, [(data, picture) for data, picture, _ in rows], pairs)
    wrong = (torch.rand(count, generator=source) < 0.1).tolist()
    better: list[Choice] = ["left" if rows[2 * i][2] > rows[2 * i + 1][2] else "right" for i in range(count)]
    made.store.add(
        [
            Event(str(i), "vote", pair.pair, "ann", other_side(choice) if flip else choice)
            for i, (pair, choice, flip) in enumerate(zip(pairs, better, wrong, strict=True))
        ]
    )
    return made


def large(pairs: int = 10_000, columns: int = 1024) -> None:
    """10,000 pairs of 1,024 features: cross-validated, calibrated, with posterior and learning curve."""
    source = torch.Generator().manual_seed(0)
    deviation = torch.arange(1, columns + 1) ** -0.5
    features = torch.randn(2 * pairs, columns, generator=source) * deviation
    taste = torch.randn(columns, generator=source)
    d = (features[0::2] - features[1::2]) @ taste
    won = torch.rand(pairs, generator=source) < torch.sigmoid(3 * d / d.std())
    labelled = [
        LabelledPair(
            PreferencePair(f"{i:06d}", f"prompt {i // 4}", f"{2 * i:064x}", f"{2 * i + 1:064x}"),
            int(w),
            int(not w),
            0,
            0,
        )
        for i, w in enumerate(won.int().tolist())
    ]
    data, division = compared(labelled), split(labelled, 0.25, 0)
    begun, worked = time.perf_counter(), time.process_time()
    lesson = Lesson(None, labelled, data, division, 0)  # type: ignore[arg-type]  # the pictures are not looked at
    learnt, chosen = learn({"image": features}, lesson, None)
    trained = time.perf_counter() - begun
    x = learnt.scale(features, [columns])
    learning_curve(x, data, division.group, chosen.spread, 0)
    spent, work = time.perf_counter() - begun, time.process_time() - worked
    margin = (x[data.left] - x[data.right])[division.held_out] @ learnt.weights
    right = ((margin > 0) == won[division.held_out]).double().mean()
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{pairs} pairs × {columns} features: {trained:.1f} s to train, {spent:.1f} s with the learning curve"
        f" ({work:.1f} s of a processor), {gigabytes:.2f} GiB at most, held-out accuracy {right:.3f}"
    )


@final
class Picks:
    """The real picks between 50 pairs of sets of colours, and what the statistics say of every set."""

    def __init__(self, file: str, folder: str) -> None:
        import_pairs("color-sets", IMPORTERS["color-sets"], file, folder)
        self.pairs = Pairs(folder)
        self.plain = [LabelledPair(pair, 1, 0, 0, 0) for pair in self.pairs.pairs]
        self.data = compared(self.plain)
        place = {pair.pair: i for i, pair in enumerate(self.pairs.pairs)}
        votes = self.pairs.store.votes()
        self.votes = [(place[v.pair], v.annotator, v.choice == "left") for v in votes if v.choice in ("left", "right")]
        self.people = sorted({person for _, person, _ in self.votes})
        extractor = StatisticsExtractor()
        block = FeatureCache(self.pairs, extractor).blocks(self.data.ids, self.data.prompts)["statistics"]
        alive = block.std(0) > 1e-6
        self.block = block[:, alive]
        self.names = [name for name, kept in zip(extractor.names, alive.tolist(), strict=True) if kept]

    def lesson(self, unseen: list[int], stranger: str | None) -> Lesson:
        """Return the votes on all pairs but the ``unseen``, of all people but the ``stranger``."""
        seen = [i for i in range(len(self.plain)) if i not in unseen]
        told = list(self.plain)
        for i in seen:
            choices = [left for pair, person, left in self.votes if pair == i and person != stranger]
            told[i] = LabelledPair(self.plain[i].pair, sum(choices), len(choices) - sum(choices), 0, 0)
        return Lesson(self.pairs, told, compared(told), Split("picture", seen, unseen, np.arange(len(told)), ""), 0)

    def scores(self, lesson: Lesson) -> dict[str, Tensor]:
        """Return what the head, and every statistic in the direction that the votes speak for, say of all sets."""
        learnt, _ = learn({"statistics": self.block}, lesson, None)
        data, seen = lesson.data, lesson.split.train
        difference = self.block[data.left[seen]] - self.block[data.right[seen]]
        lean = (difference * (data.target[seen] - 0.5)[:, None]).sum(0).sign()
        agreed = ((difference * lean).sign() * (data.target[seen] - 0.5)[:, None]).sum(0)
        singles = (self.block * lean).T
        found = {"head": learnt.scale(self.block, [len(self.names)]) @ learnt.weights}
        found["the statistic that fits the same votes best"] = singles[int(agreed.argmax())]
        return found | dict(zip(self.names, singles, strict=True))


def colors(file: str, partitions: int = 5) -> None:
    """Real picks: a head on the statistics against every single statistic, on unseen sets, of unseen people or not."""
    with tempfile.TemporaryDirectory() as folder:
        picks = Picks(file, folder)
    _ceiling(picks)
    for known in (False, True):
        correct: dict[str, list[float]] = {}
        cluster: list[int] = []
        for partition in range(partitions):
            order = torch.randperm(50, generator=torch.Generator().manual_seed(partition)).view(5, 10).tolist()
            for unseen, stranger in itertools.product(order, [None] if known else picks.people):
                found = picks.scores(picks.lesson(unseen, stranger))
                for pair, person, left in picks.votes:
                    if pair in unseen and stranger in (None, person):
                        cluster.append(pair)
                        for name, score in found.items():
                            margin = float(score[picks.data.left[pair]] - score[picks.data.right[pair]])
                            correct.setdefault(name, []).append(0.5 if margin == 0 else float((margin > 0) == left))
        _compare(correct, cluster, "known people" if known else "unseen people", partitions)


def _ceiling(picks: Picks) -> None:
    """Print how often the others' majority on the very same pair is what a person picked: more cannot be learnt."""
    agreed, cluster = [], []
    for pair, person, left in picks.votes:
        others = sum(1 if vote else -1 for other, by, vote in picks.votes if other == pair and by != person)
        agreed.append(0.5 if others == 0 else float((others > 0) == left))
        cluster.append(pair)
    one = mean_estimate(np.array(agreed), cluster)
    print(f"The majority of the others on the very same pair: {one.value:.3f} ({one.low:.3f} to {one.high:.3f})\n")


def _compare(correct: dict[str, list[float]], cluster: list[int], whose: str, partitions: int) -> None:
    head = np.array(correct.pop("head"))
    one = mean_estimate(head, cluster)
    count = len(correct) - 1
    print(f"| model | accuracy on votes of {whose} on unseen sets | head less this, 95 % interval |")
    print("|---|---|---|")
    told = f"{one.n // partitions} votes, {partitions} partitions of the sets"
    print(f"| head on {count} statistics | {one.value:.3f} ({one.low:.3f} to {one.high:.3f}), {told} | |")
    ranked = sorted(correct.items(), key=lambda item: -np.mean(item[1]))
    for name, values in [item for place, item in enumerate(ranked) if place < 6 or item[0].startswith("the ")]:
        gap = mean_estimate(head - np.array(values), cluster)
        print(f"| {name} | {np.mean(values):.3f} | {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) |")
    beaten = sum(np.mean(values) < head.mean() for name, values in correct.items() if not name.startswith("the "))
    print(f"The head is better than {beaten} of {count} single statistics.\n", flush=True)


def main() -> None:
    """Run what is named; without a name all that need no file."""
    named = sys.argv[1:] or ["recovery", "time", "large"]
    runs = {"recovery": recovery, "time": clock, "large": large}
    for name in named:
        if name in runs:
            print(f"\n## {name}\n", flush=True)
            runs[name]()
    if "colors" in named:
        print("\n## colors\n", flush=True)
        colors(named[named.index("colors") + 1])


if __name__ == "__main__":
    main()
