"""What an annotator has done so far, as it was on the screen then: for undo, the last five votes, and the review."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..preferences import PreferencePair
from ..preferences.events import AGAIN, FAST_MS, Event, other_side


def rows(
    events: Sequence[Event], pairs: Mapping[str, PreferencePair], votes: Iterable[Event] = ()
) -> list[dict[str, Any]]:
    """Return one annotator's standing ``events``, newest first, each with its pictures and choice as on the screen.

    An answer says whether a newer one has ``replaced`` it and whether its pair is ``flagged``; a vote, whether it was
    ``fast`` and, given everyone's ``votes``, whether it ``disagrees`` with another person's or with the annotator's own
    on the swapped repeat.
    """
    others: dict[str, set[str]] = {}
    for vote in votes:
        if not events or vote.annotator != events[0].annotator:
            others.setdefault(vote.pair, set()).add(str(vote.choice))
    own = {(event.pair, event.again): event.choice for event in events if event.type == "vote"}
    flagged = {event.pair for event in events if event.type == "flag"}
    answered: set[tuple[str, bool]] = set()
    found = []
    for event in reversed(events):
        if event.pair not in pairs:
            continue
        row = _row(event, pairs[event.pair])
        if event.type in ("vote", "skip"):
            row |= {"replaced": (event.pair, event.again) in answered, "flagged": event.pair in flagged}
            answered.add((event.pair, event.again))
        if event.type == "vote":
            twin = own.get((event.pair, not event.again), event.choice)
            row["fast"] = event.ms is not None and event.ms < FAST_MS
            row["disagrees"] = twin != event.choice or not others.get(event.pair, set()) <= {event.choice}
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
