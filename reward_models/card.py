"""The card of a trained reward model: how far to trust it, in numbers. Its words are in `card_text`."""

from dataclasses import dataclass
from typing import Any, final

from .bias import Leaning
from .learning_curve import LearningCurve
from .measures import Bin, Part

TIES = "pairs whose votes are tied are left out of the accuracies"


@final
@dataclass(frozen=True)
class SplitCard:
    """How the pairs were divided."""

    by: str
    """``prompt`` or ``picture``: what is never on both sides."""
    groups_held_out: int
    """Groups of pairs connected by it: as many independent observations are behind the accuracy."""
    hash: str
    """Accuracies are comparable only where it is the same."""


@final
@dataclass(frozen=True)
class Measured:
    """The long parts. All but the learning curve are of the held-out pairs."""

    calibration: list[Bin]
    """Chance that was given to the favourite, and how often it was preferred."""
    tie_curve: list[Bin]
    """Distance of the scores (``expected``), and share of ties (``observed``)."""
    by_annotator: dict[str, Part]
    by_criterion: dict[str, Part]
    learning_curve: LearningCurve | None
    """None where the model has no evidence on which its last layer is linear."""
    bias: dict[str, Leaning]
    """By property; empty where the probe was switched off."""


@final
@dataclass(frozen=True)
class Card:
    """Everything that was measured. Accuracies are shares of decided pairs; log-likelihoods are in nats a pair."""

    family: str
    held_out_accuracy: float | None
    """Agreement with the votes on pairs held out; None where there are none."""
    held_out_accuracy_ci: tuple[float, float] | None
    """Its 95 % interval, resampling whole groups of pairs."""
    ceiling: float | None
    """The best that any model can agree with these annotators, where that is known."""
    accuracy_of_ceiling: float | None
    """Held-out accuracy ÷ ceiling."""
    pairs_train: int
    pairs_held_out: int
    pairs_held_out_tied: int
    ties: str
    split: SplitCard
    nll: float | None
    """Negative log-likelihood of the held-out votes; ln 2 = 0.693 is guessing."""
    ece: float | None
    """Expected calibration error on the decided held-out pairs, ten bins of equally many."""
    ece_by_chance: float | None
    """What of it chance alone would give a model whose chances are all true, on so many pairs."""
    train_accuracy: float | None
    train_nll: float
    score_std: float
    """Standard deviation of the scores of the training pictures, in log-odds."""
    score_mean: float
    """Their mean: what is usual."""
    head: dict[str, float]
    """Log-odds for one standard deviation of what has a name."""
    told: dict[str, Any]
    """What the family tells of itself."""
    alarms: list[str]
    """Why the model, or what is said of it here, must not be believed."""
    looked_for: list[str]
    """The kinds of alarm there could have been."""
    measured: Measured


def verdict(card: Card) -> str:
    """Return the outcome in one line of plain language."""
    if card.held_out_accuracy is None or card.held_out_accuracy_ci is None:
        return f"Trained on {card.pairs_train} pairs; no decided pair could be held out, so its accuracy is unknown."
    low, high = card.held_out_accuracy_ci
    best = f"; the best possible is {card.ceiling:.0%}" if card.ceiling is not None else ""
    coin = " That is not shown to be better than tossing a coin." if low <= 0.5 else ""
    return (
        f"The reward model agrees with {card.held_out_accuracy:.0%} of the held-out votes (95 %: {low:.0%} to"
        f" {high:.0%}; {card.pairs_held_out} pairs, after {card.pairs_train} to learn from{best}).{coin}"
    )
