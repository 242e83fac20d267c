"""Where each annotator stands in a round, kept up to date event by event, and who has what in hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from .events import AGAIN, Event, is_script
from .writing import Lease


@final
@dataclass
class Record:
    """One annotator. Pairs are named as shown: a repeat is a pair of its own, whose id ends in ``~again``."""

    votes: dict[str, list[str]] = field(default_factory=dict)
    """Pair → the ids of its standing votes; in the order of the first of them."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Pair → the ids of its standing skips since the last vote; in the order of the last of them."""
    undone: dict[str, None] = field(default_factory=dict)
    """Pairs whose vote or skip was taken back and that wait for another, the last one last."""


@final
class Tally:
    """The events up to number `seen`, folded; as quick with ten thousand of them as with ten."""

    def __init__(self) -> None:
        self.seen = 0
        self.voters: dict[str, set[str]] = {}
        """Pair → the people with a standing vote on it, repeats and scripts apart."""
        self._records: dict[str, Record] = {}
        self._events: dict[str, Event] = {}

    def of(self, annotator: str) -> Record:
        """Return where ``annotator`` stands; not to be changed."""
        return self._records.get(annotator, Record())

    def fold(self, events: Iterable[tuple[int, Event]]) -> None:
        """Take in the ``events`` after `seen`, in order."""
        for number, event in events:
            self.seen = number
            record = self._records.setdefault(event.annotator, Record())
            if event.type == "undo":
                self._take_back(record, str(event.undoes))
            elif event.type in ("vote", "skip"):
                self._events[event.id] = event
                shown = event.pair + AGAIN * event.again
                record.undone.pop(shown, None)
                if event.type == "vote":
                    record.votes.setdefault(shown, []).append(event.id)
                    record.skipped.pop(shown, None)
                    if not event.again and not is_script(event.annotator):
                        self.voters.setdefault(event.pair, set()).add(event.annotator)
                else:
                    record.skipped[shown] = [*record.skipped.pop(shown, []), event.id]

    def _take_back(self, record: Record, target: str) -> None:
        event = self._events.pop(target, None)
        if event is None:  # a comment, or something that was taken back before
            return
        shown = event.pair + AGAIN * event.again
        of_type = record.votes if event.type == "vote" else record.skipped
        ids = of_type.get(shown, [])
        if target not in ids:
            return
        ids.remove(target)
        if not ids:
            del of_type[shown]
            record.undone.pop(shown, None)
            record.undone[shown] = None
            if event.type == "vote" and not event.again:
                self.voters.get(event.pair, set()).discard(event.annotator)


@final
class Leases:
    """The leases that have not run out, by annotator and by pair."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.of: dict[str, dict[str, Lease]] = {}
        self.holders: dict[str, list[Lease]] = {}
        for lease in leases:
            self.of.setdefault(lease.annotator, {})[lease.pair] = lease
            self.holders.setdefault(lease.pair, []).append(lease)

    def before(self, pair: str, annotator: str) -> set[str]:
        """Return who has ``pair`` in hand since before ``annotator`` had; everybody who has, if that is not so."""
        own = self.of.get(annotator, {}).get(pair)
        return {lease.annotator for lease in self.holders.get(pair, []) if own is None or lease.granted < own.granted}
