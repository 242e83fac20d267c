"""The card of a trained reward model as Markdown, for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from .card import TIES, Card, verdict
from .measures import RESAMPLES, Bin, Part

MOST_TASTES = 15
"""Named weights that are listed, the heaviest first."""
MEANINGS = {
    "features": "features: how many numbers it sees of a picture",
    "spread": "spread: how far apart scores lie before any vote, in log-odds",
    "temperature": "temperature: what the scores were divided by, so that their chances come true",
    "tie_width": "tie width: ν, the weight of a tie; 0 where there was none",
    "folds": "folds of the cross-validation",
    "kept_step": "step whose weights are kept",
    "kept_steps": "step of each run whose weights are kept",
    "watched_nll": "log-loss on the pairs that were watched, then",
    "watched_nll_before": "the same before the first step",
    "recognised": "first lesson, which caption belongs to which picture",
}
"""What families tell of themselves, in words."""


def as_markdown(card: Card) -> str:
    """Return the card for a person."""
    parts = [
        ["# Reward model"],
        [f"**Alarm: {alarm}.**" for alarm in card.alarms],
        [verdict(card)],
        [card.measured.learning_curve.words] if card.measured.learning_curve else [],
        ["[What it likes, in pictures](pictures.html)"],
        [_table(("what", "value"), _figures(card))],
        [
            f"Split by {card.split.by}: no {card.split.by} is on both sides ({card.split.groups_held_out} groups held"
            f" out, hash `{card.split.hash}`). The interval resamples these groups {RESAMPLES} times; {TIES}."
        ],
        _calibration(card.measured.calibration, card.ece),
        _ties(card.measured.tie_curve),
        _parts("Whom it agrees with", ("annotator", "votes held out"), card.measured.by_annotator),
        _parts("On what", ("criterion", "pairs held out"), card.measured.by_criterion),
        _learning(card),
        _tastes(card.head),
        _bias(card),
        _told(card.told),
        [
            f"Scores are in log-odds, and the average training picture has {signed(card.score_mean)}: what counts is"
            " the difference. Of pictures unlike those that were voted on, a score is a guess."
        ],
    ]
    return "\n\n".join(paragraph for part in parts for paragraph in part) + "\n"


def _figures(card: Card) -> list[tuple[str, ...]]:
    interval = " to ".join(map(_percent, card.held_out_accuracy_ci)) if card.held_out_accuracy_ci else "–"
    return [
        ("Family", card.family),
        ("Held-out accuracy", _percent(card.held_out_accuracy)),
        ("95 % interval", interval),
        ("Ceiling of the annotators", _percent(card.ceiling)),
        ("Accuracy ÷ ceiling", _percent(card.accuracy_of_ceiling)),
        ("Held-out log-loss, nats (a guess: 0.693)", "–" if card.nll is None else f"{card.nll:.3f}"),
        ("Calibration error (ECE)", _calibrated(card)),
        ("Accuracy, log-loss on the training pairs", f"{_percent(card.train_accuracy)}, {card.train_nll:.3f}"),
        ("Pairs to train on", str(card.pairs_train)),
        ("Pairs held out, of these tied", f"{card.pairs_held_out}, {card.pairs_held_out_tied}"),
        ("Standard deviation of the scores, log-odds", f"{card.score_std:.2f}"),
        ("Alarms", f"{len(card.alarms) or 'none'} (looked for: {', '.join(card.looked_for)})"),
    ]


def _calibrated(card: Card) -> str:
    if card.ece is None or card.ece_by_chance is None:
        return "–"
    return f"{card.ece:.3f} (by chance alone, were the model perfect: {card.ece_by_chance:.3f})"


def _calibration(bins: Sequence[Bin], ece: float | None) -> list[str]:
    if ece is None:
        return []
    rows = [(_percent(one.expected), _percent(one.observed), str(one.n)) for one in bins]
    explained = (
        "The chance that the model gave to its favourite of a held-out pair, and how often that was preferred. With few"
        " pairs a bin, chance alone makes a difference."
    )
    return ["## Do its chances come true?", explained, _table(("expected", "happened", "pairs"), rows)]


def _ties(curve: Sequence[Bin]) -> list[str]:
    if not curve:
        return []
    rows = [(f"{one.expected:.2f}", _percent(one.observed), str(one.n)) for one in curve]
    return ["## Ties", _table(("distance of the scores", "share of ties", "pairs"), rows)]


def _parts(title: str, names: tuple[str, str], parts: Mapping[str, Part]) -> list[str]:
    if not parts:
        return []
    rows = [
        (_plain(key), _percent(part.accuracy), f"{_percent(part.low)} to {_percent(part.high)}", str(part.n))
        for key, part in parts.items()
    ]
    return [f"## {title}", _table((names[0], "accuracy", "95 % interval", names[1]), rows)]


def _learning(card: Card) -> list[str]:
    curve = card.measured.learning_curve
    if curve is None or not curve.points:
        return []
    rows = [(str(point.n), _percent(point.accuracy)) for point in curve.points]
    explained = (
        "By cross-validation over all pairs, with a ridge head on this model's evidence; carried on as a − b/√n."
        f" {curve.words}"
    )
    return ["## What more labels would gain", explained, _table(("pairs learnt from", "accuracy on unseen"), rows)]


def _tastes(head: Mapping[str, float]) -> list[str]:
    if not head:
        return []
    heaviest = sorted(head.items(), key=lambda item: -abs(item[1]))[:MOST_TASTES]
    rows = [(name, signed(weight)) for name, weight in heaviest]
    explained = (
        "Log-odds of being preferred for one standard deviation more of each, the others being equal. What has no name,"
        " such as a network's features, weighs in besides."
    )
    return ["## What it likes", explained, _table(("what", "log-odds"), rows)]


def _bias(card: Card) -> list[str]:
    if not card.measured.bias:
        return []
    rows = [
        (
            name.replace("_", " "),
            _percent(one.votes),
            _percent(one.model),
            signed(one.slope),
            signed(one.up),
            signed(one.down),
        )
        for name, one in card.measured.bias.items()
    ]
    explained = (
        "How often the votes, and the model, preferred the picture with more of it; log-odds for one standard deviation"
        " more of it, from picture to picture; and what the score gains when one picture is edited to have a tenth more"
        " of it, and a tenth less. High frequency: a texture of single pixels is added, or blurred away; JPEG size: a"
        " faint grain is added, or the picture saved with losses, until its JPEG is a tenth larger, or smaller. –"
        " stands where no picture can be edited so. Where the model leans further than the votes do, a generator that"
        " is tuned against it will go there."
    )
    head = ("more of it", "votes", "model", "slope", "edited +10 %", "edited −10 %")
    return ["## What it leans on", explained, _table(head, rows)]


def _told(told: Mapping[str, Any]) -> list[str]:
    if not told:
        return []
    rows = [(MEANINGS.get(name, name.replace("_", " ")), _plain(value)) for name, value in told.items()]
    return ["## Of its family", _table(("what", "value"), rows)]


def signed(value: float | None) -> str:
    """Return ``value`` with its sign; one that rounds to 0 has none."""
    if value is None:
        return "–"
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """Return a name or value of a user's so that it stays in its cell."""
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
