"""What an annotator has done so far, as it was on the screen then: for undo, the last five votes, and the review."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..preferences import PreferencePair
from ..preferences.events import AGAIN, Event, other_side

FAST_MS = 600
"""A vote given sooner than this after the pictures appeared is marked: hardly anyone sees both in less."""


def rows(
    events: Sequence[Event], pairs: Mapping[str, PreferencePair], votes: Iterable[Event] = ()
) -> list[dict[str, Any]]:
    """Return one annotator's standing ``events``, newest first, each with its pictures and choice as on the screen.

    With everyone's ``votes``, a vote also says whether another person, or the annotator on the swapped repeat, chose
    otherwise.
    """
    others: dict[str, set[tuple[str, str | None]]] = {}
    for vote in votes:
        others.setdefault(vote.pair, set()).add((vote.annotator, vote.choice))
    own: dict[tuple[str, bool], str | None] = {(e.pair, e.again): e.choice for e in events if e.type == "vote"}
    flagged = {event.pair for event in events if event.type == "flag"}
    answered: set[tuple[str, bool]] = set()
    found = []
    for event in reversed(events):
        if event.pair not in pairs:
            continue
        row = _row(event, pairs[event.pair])
        if event.type == "vote":
            key = (event.pair, event.again)
            repeat = own.get((event.pair, not event.again), event.choice)
            row["fast"] = event.ms is not None and event.ms < FAST_MS
            row["flagged"] = event.pair in flagged
            row["replaced"] = key in answered
            row["disagrees"] = repeat != event.choice or any(
                annotator != event.annotator and choice != event.choice
                for annotator, choice in others.get(event.pair, ())
            )
            answered.add(key)
        found.append(row)
    return found


def _row(event: Event, pair: PreferencePair) -> dict[str, Any]:
    left, right = (pair.right, pair.left) if event.swapped else (pair.left, pair.right)
    row: dict[str, Any] = {
        "id": event.id,
        "type": event.type,
        "pair": event.pair + AGAIN if event.again else event.pair,
        "prompt": pair.prompt,
        "left": left,
        "right": right,
        "at": event.at,
    }
    if event.type == "vote":
        choice = other_side(event.choice) if event.swapped else event.choice
        row |= {"choice": choice, "strength": event.strength, "ms": event.ms}
    if event.tags:
        row["tags"] = list(event.tags)
    if event.text:
        row["text"] = event.text
    return row
