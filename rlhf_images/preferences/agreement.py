"""How far votes can be trusted, and what they say: agreement, bias, rankings, and how many votes a claim needs."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from .events import Choice, Event

LEVEL = 0.95
POWER = 0.8
WIN_RATES = (0.55, 0.6, 0.65, 0.7)
"""True win rates for which the number of votes that they need is told."""
RIDGE = 0.1
"""Of Bradley–Terry strengths: keeps them finite on a perfect record, and moves a close one by little."""
ELO = 400 / math.log(10)
"""Elo points of one unit of log-odds."""


@final
@dataclass(frozen=True)
class Share:
    """``count`` of ``n`` (at least one), with the exact (Clopper–Pearson) 95 % interval [``low``, ``high``]."""

    value: float
    low: float
    high: float
    count: int
    n: int

    @classmethod
    def of(cls, count: int, n: int) -> "Share | None":
        """Return the share, or None of nothing."""
        from scipy.stats import binomtest  # type: ignore[import-untyped,unused-ignore]

        if n == 0:
            return None
        interval = binomtest(count, n).proportion_ci(LEVEL, "exact")
        return cls(count / n, float(interval.low), float(interval.high), count, n)


def self_agreement(votes: Iterable[Event], repeats: Iterable[Event]) -> Share | None:
    """Return how often the ``repeats`` repeat the ``votes``, of pairs that were decided both times.

    Both are of one annotator, a pair at most once in each, and their choices in the pair's frame: a person who always
    takes the left side contradicts themselves each time.
    """
    first = {vote.pair: vote.choice for vote in votes if vote.choice in ("left", "right")}
    answers = [(first[again.pair], again.choice) for again in repeats if again.pair in first]
    decided = [before == now for before, now in answers if now in ("left", "right")]
    return Share.of(sum(decided), len(decided))


def ceiling(agreement: float) -> float:
    """Return the best accuracy p that any model can have on a person whose repeats agree in this share.

    If each answer is the person's own opinion with probability p, two agree with r = p² + (1 − p)², so
    p = (1 + √(2r − 1)) / 2. An agreement below ½ is chance or worse: p = ½.
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"an agreement of {agreement}; from 0 to 1")
    return (1 + math.sqrt(max(2 * agreement - 1, 0))) / 2


def position_bias(answers: Iterable[Event]) -> Share | None:
    """Return how often the decided ``answers`` chose the picture on the left of the screen; ½ is no bias."""
    decided = [(answer.choice == "left") != answer.swapped for answer in answers if answer.choice in ("left", "right")]
    return Share.of(sum(decided), len(decided))


NOMINAL: Mapping[Choice, int] = {"left": 0, "right": 1, "tie": 2, "both_bad": 3}


def krippendorff_alpha(votes: Sequence[Event], *, ordinal: bool = False) -> float | None:
    """Return Krippendorff's α between the annotators of ``votes`` (each at most once on a pair).

    1 is perfect agreement, 0 that of chance, below 0 worse. Nominal: the four choices. Ordinal: from left much better
    over left, even (tie or both bad) and right to right much better. None where no pair has two votes, or where all
    votes are the same: then chance agrees perfectly too, and nothing can be said.
    """
    import krippendorff  # type: ignore[import-untyped,unused-ignore]

    annotators = {name: row for row, name in enumerate(sorted({vote.annotator for vote in votes}))}
    pairs = {name: column for column, name in enumerate(sorted({vote.pair for vote in votes}))}
    table = np.full((len(annotators), len(pairs)), np.nan)
    for vote in votes:
        value = _graded(vote) if ordinal else NOMINAL[vote.choice] if vote.choice else math.nan
        table[annotators[vote.annotator], pairs[vote.pair]] = value
    shared = table[:, (~np.isnan(table)).sum(0) >= 2]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=shared, level_of_measurement="ordinal" if ordinal else "nominal"))


def bradley_terry(
    wins: Sequence[tuple[str, str]], ties: Sequence[tuple[str, str]] = (), ridge: float = RIDGE
) -> dict[str, float]:
    """Return a strength for each name in ``wins`` (winner, loser) and ``ties``, the strongest first, mean 0.

    P(a beats b) = sigmoid(strength a − strength b); a tie is half a win each. The strengths minimise the negative
    log-likelihood plus ½ · ridge · Σ strength², so they stay finite where somebody never loses.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped,unused-ignore]

    if ridge <= 0:
        raise ValueError(f"a ridge of {ridge}; above 0")
    weights: dict[tuple[str, str], float] = Counter(wins)  # type: ignore[assignment]
    for first, second in ties:
        weights[first, second] += 0.5
        weights[second, first] += 0.5
    names = sorted({name for pair in weights for name in pair})
    if not names:
        return {}
    # strengths are the weights of a regression on which two met, each meeting told from both sides
    met = np.zeros((len(weights), len(names)))
    for row, (winner, loser) in enumerate(weights):
        met[row, names.index(winner)], met[row, names.index(loser)] = 1, -1
    told = np.array(list(weights.values())) / 2
    model = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    model.fit(np.vstack([met, -met]), np.repeat([1, 0], len(weights)), np.concatenate([told, told]))
    strengths: NDArray[np.float64] = model.coef_[0] - model.coef_[0].mean()
    return dict(sorted(zip(names, strengths.tolist(), strict=True), key=lambda item: (-item[1], item[0])))


def elo(strength: float) -> float:
    """Return a Bradley–Terry strength on Elo's scale: 1000 is the mean, 400 points are odds of ten to one."""
    return 1000 + ELO * strength


def votes_needed(win_rate: float, power: float = POWER) -> int:
    """Return how many decided votes tell a true ``win_rate`` from ½ at the 5 % level with this ``power``.

    n = ((z₀.₉₇₅ · ½ + z_power · √(w (1 − w))) / (w − ½))², rounded up.
    """
    from scipy.special import ndtri  # type: ignore[import-untyped,unused-ignore]

    if not 0 < win_rate < 1 or win_rate == 0.5:
        raise ValueError(f"a win rate of {win_rate}; between 0 and 1, and not ½, which nothing tells from ½")
    spread = ndtri((1 + LEVEL) / 2) / 2 + ndtri(power) * math.sqrt(win_rate * (1 - win_rate))
    return math.ceil(float(spread / (win_rate - 0.5)) ** 2)


def detectable(votes: int, power: float = POWER) -> float:
    """Return the smallest win rate above ½, in whole per cent, that this many decided votes tell from ½; 1 if none."""
    return next((rate / 100 for rate in range(51, 100) if votes_needed(rate / 100, power) <= votes), 1.0)


def _graded(vote: Event) -> float:
    """Return a vote from −2 (left much better) to 2 (right much better)."""
    return {"left": -vote.strength, "right": vote.strength}.get(str(vote.choice), 0)
