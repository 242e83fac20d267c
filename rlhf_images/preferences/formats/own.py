"""The four columns of ours that stand beside every layout's own, so that nothing is lost on the way out and back.

    pair       the pair's id
    criterion  what was asked, or ""
    weight     how much the pair counts in training
    votes      JSON: [{"annotator": "ann", "choice": "left", "strength": 1}, …]; where the voters are not told,
               {"annotator": null, "choice": "left", "count": 12.0}

A trainer that does not know them ignores them.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, final

from ..events import CHOICES, Choice
from ..pairs import Counts, LabelledPair, PreferencePair
from .compared import Ballot, Compared
from .rows import BadRow, Reference, Row, items, plain_text, real

COLUMNS = ("pair", "criterion", "weight", "votes")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
"""Ids that can be file names everywhere."""


@final
@dataclass(frozen=True)
class Judged:
    """A pair with everything that was said about it: the newest vote of every annotator, and nameless counts."""

    pair: PreferencePair
    ballots: tuple[Ballot, ...]

    @property
    def preference(self) -> float:
        """Return the share of votes that prefer the left picture, in [0, 1]; a tie and both bad count half."""
        counted = sum((Counts(**{ballot.choice: 1.0}) for ballot in self.ballots), self.pair.counts)
        return LabelledPair(self.pair, **asdict(counted)).preference

    def columns(self) -> dict[str, Any]:
        """Return our four columns."""
        counts = {choice: getattr(self.pair.counts, choice) for choice in CHOICES}
        votes: list[dict[str, Any]] = [
            {"annotator": ballot.annotator, "choice": ballot.choice, "strength": ballot.strength}
            for ballot in self.ballots
        ]
        votes += [{"annotator": None, "choice": choice, "count": count} for choice, count in counts.items() if count]
        return {
            "pair": self.pair.pair,
            "criterion": self.pair.criterion,
            "weight": self.pair.weight,
            "votes": json.dumps(votes, ensure_ascii=False),
        }


def read(row: Row, prompt: str, left: Reference, right: Reference) -> Compared:
    """Return the pair that a row of ours tells by its four columns."""
    ballots, counts = _votes(row)
    weight = row.real("weight") if row.has("weight") else 1.0
    if weight <= 0:
        raise BadRow(f"'weight' is {weight}; it must be more than 0")
    name = row.text_or("", "pair")
    return Compared(
        prompt,
        left,
        right,
        tuple(ballots),
        counts,
        weight,
        row.text_or("", "criterion"),
        name if NAME.match(name) else "",
    )


def _votes(row: Row) -> tuple[list[Ballot], Counts]:
    try:
        told = json.loads(row.text("votes"))
    except (ValueError, RecursionError):
        raise BadRow("'votes' is not JSON") from None
    ballots: list[Ballot] = []
    counts = Counts()
    for vote in items(told, "votes"):
        if not isinstance(vote, dict):
            raise BadRow("'votes' holds something that is no vote")
        choice = _choice(vote.get("choice"))
        if vote.get("annotator") is None:
            count = real(vote.get("count"), "count")
            if count < 0:
                raise BadRow(f"'count' is {count}; it cannot be less than 0")
            counts += Counts(**{choice: count})
        else:
            strength = real(vote.get("strength", 1), "strength")
            ballots.append(Ballot(plain_text(vote["annotator"], "annotator"), choice, int(strength)))
    return ballots, counts


def _choice(value: object) -> Choice:
    for choice in CHOICES:
        if value == choice:
            return choice
    raise BadRow(f"'choice' is none of {', '.join(CHOICES)}")


def side(preference: float) -> float:
    """Return 1 where the left picture won, 0 where the right one did, 0.5 for a tie."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def annotators(judged: Iterable[Judged]) -> list[str]:
    """Return who voted, each once, sorted."""
    return sorted({ballot.annotator for one in judged for ballot in one.ballots})
