"""The card of a trained reward model: how far to trust it, in numbers and in words."""

import math
from dataclasses import dataclass
from typing import Any, final

from .bradley_terry import RESAMPLES

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
class Card:
    """Everything that was measured. Accuracies are shares of decided pairs; log-likelihoods are in nats a pair."""

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
    train_accuracy: float | None
    train_nll: float
    score_std: float
    """Standard deviation of the scores of the training pictures, in log-odds."""
    head: dict[str, float]
    """Log-odds for one standard deviation of the cosine and of each statistic of a picture."""
    recognise: dict[str, Any] | None
    """How well the towers know what the captions name, where they learnt it."""
    alarm: str | None
    """Why the model must not be used, or None."""


def alarm(score_std: float, train_nll: float) -> str | None:
    """Return the sign of a head that learnt nothing: constant scores, or a loss that is still a guess's, ln 2."""
    if score_std < 1e-4:
        return f"dead head: the scores of the training pictures differ by only {score_std:.1e}; do not use this model"
    if abs(train_nll - math.log(2)) < 1e-3:
        return f"dead head: the loss on the training pairs is a guess's, {train_nll:.4f} (ln 2); do not use this model"
    return None


def verdict(card: Card) -> str:
    """Return the outcome in one line of plain language."""
    if card.held_out_accuracy is None or card.held_out_accuracy_ci is None:
        return f"Trained on {card.pairs_train} pairs; no decided pair could be held out, so its accuracy is unknown."
    low, high = card.held_out_accuracy_ci
    best = f"; the best possible is {card.ceiling:.0%}" if card.ceiling is not None else ""
    return (
        f"The reward model agrees with {card.held_out_accuracy:.0%} of the held-out votes (95 %: {low:.0%} to"
        f" {high:.0%}; {card.pairs_held_out} pairs, after {card.pairs_train} to learn from{best})."
    )


def as_markdown(card: Card) -> str:
    """Return the card for a person."""
    rows = [
        ("Held-out accuracy", _percent(card.held_out_accuracy)),
        ("95 % interval", " to ".join(map(_percent, card.held_out_accuracy_ci)) if card.held_out_accuracy_ci else "–"),
        ("Ceiling of the annotators", _percent(card.ceiling)),
        ("Accuracy ÷ ceiling", _percent(card.accuracy_of_ceiling)),
        ("Held-out log-loss, nats (a guess: 0.693)", "–" if card.nll is None else f"{card.nll:.3f}"),
        ("Accuracy, log-loss on the training pairs", f"{_percent(card.train_accuracy)}, {card.train_nll:.3f}"),
        ("Pairs to train on", str(card.pairs_train)),
        ("Pairs held out, of these tied", f"{card.pairs_held_out}, {card.pairs_held_out_tied}"),
        ("Standard deviation of the scores, log-odds", f"{card.score_std:.2f}"),
    ]
    if card.recognise:
        known = f"{_percent(card.recognise['held_out_accuracy'])} of {card.recognise['captions']}"
        rows.append(("Held-out captioned pictures given their caption", known))
    weights = [(name, f"{weight:+.2f}") for name, weight in card.head.items()]
    return "\n".join(
        [
            "# Reward model",
            "",
            *([f"**Alarm: {card.alarm}.**", ""] if card.alarm else []),
            verdict(card),
            "",
            *_table(("what", "value"), rows),
            "",
            f"Split by {card.split.by}: no {card.split.by} is on both sides ({card.split.groups_held_out} groups held"
            f" out, hash `{card.split.hash}`). The interval resamples these groups {RESAMPLES} times; {TIES}.",
            "",
            "## What it likes",
            "",
            "Log-odds of being preferred for one standard deviation more of each; the cosine is that between picture"
            " and prompt. The features of the picture weigh in besides.",
            "",
            *_table(("what", "log-odds"), weights),
            "",
            "The score is in log-odds against the average training picture. It is a guess outside what was voted on.",
            "",
        ]
    )


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
