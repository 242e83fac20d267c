"""What one writer does, alone in its round: events go in, all or none, and leases are given, renewed and used up."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from ..errors import BadInput
from .events import Event, standing
from .tables import EVENTS, LEASES, events_of

CHUNK = 500
"""Ids in one question to the database."""


@final
class Refused(BadInput):
    """Events that contradict what is stored: ``reasons`` by event id. Nothing of the call was stored."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


@final
@dataclass(frozen=True)
class Lease:
    """``annotator`` has been handed ``pair`` until ``until``, on the store's clock."""

    pair: str
    annotator: str
    granted: int
    """A number that grows from grant to grant: clocks of two servers, or of one within a tick, know no order."""
    until: float


@final
class Writing:
    """A round while one writer is alone in it, at the time ``now``."""

    def __init__(self, connection: Connection, round: str, now: float) -> None:
        self._connection, self._round, self.now = connection, round, now

    def add(self, events: Sequence[Event], dated: bool = False) -> None:
        """Store those of ``events`` that are not there yet; see `Store.add`. ``dated`` ones keep their time."""
        stored = self._stored(events)
        refused: dict[str, str] = {}
        fresh: list[Event] = []
        for event in events:
            before = stored.get(event.id)
            try:
                if before is None:
                    event = event if event.type != "undo" else self._resolved(event, stored)
                    event = replace(event, at=event.at if dated and event.at else self.now)
                    fresh.append(event)
                    stored[event.id] = event
                elif not event.same(before):
                    raise BadInput(f"event {event.id}: already stored with other content, which stays")
            except BadInput as error:
                refused[event.id] = str(error)
        if refused:
            raise Refused(refused)
        if fresh:
            rows = [asdict(event) | {"round": self._round, "tags": json.dumps(event.tags)} for event in fresh]
            self._connection.execute(EVENTS.insert(), rows)
            self._release(fresh, stored)

    def can_be_written(self) -> None:
        """Write nothing, so that a file on a read-only disk is told now and not by the first vote."""
        self._connection.execute(LEASES.delete().where((LEASES.c.round == self._round) & (LEASES.c.until < 0)))

    def events(self, after: int = 0) -> list[tuple[int, Event]]:
        """Return the events with a number above ``after``, each with its own, in order."""
        return events_of(self._connection, (EVENTS.c.round == self._round) & (EVENTS.c.number > after))

    def leases(self) -> list[Lease]:
        """Return the leases that have not run out, the oldest first."""
        wanted = (LEASES.c.round == self._round) & (LEASES.c.until > self.now)
        columns = (LEASES.c.pair, LEASES.c.annotator, LEASES.c.granted, LEASES.c.until)
        rows = self._connection.execute(sql.select(*columns).where(wanted).order_by(LEASES.c.granted))
        return [Lease(*row) for row in rows]

    def lease(self, annotator: str, pairs: Sequence[str], seconds: float) -> None:
        """Note that ``annotator`` has been handed ``pairs`` for the next ``seconds``, anew where it had them before."""
        if not pairs:
            return
        mine = (LEASES.c.round == self._round) & (LEASES.c.annotator == annotator)
        for start in range(0, len(pairs), CHUNK):
            part = pairs[start : start + CHUNK]
            self._connection.execute(LEASES.delete().where(mine & LEASES.c.pair.in_(part)))
        row = {"round": self._round, "annotator": annotator, "until": self.now + seconds, "seconds": seconds}
        numbered = enumerate(dict.fromkeys(pairs), self._next_grant())
        self._connection.execute(
            LEASES.insert(), [row | {"pair": pair, "granted": number} for number, pair in numbered]
        )

    def extend(self, annotator: str, pairs: Sequence[str], seconds: float) -> None:
        """Let the leases of ``annotator`` on ``pairs`` run for ``seconds`` from now, as old as they are."""
        mine = (LEASES.c.round == self._round) & (LEASES.c.annotator == annotator)
        for start in range(0, len(pairs), CHUNK):
            part = LEASES.c.pair.in_(pairs[start : start + CHUNK])
            self._connection.execute(LEASES.update().where(mine & part).values(until=self.now + seconds))

    def _stored(self, events: Sequence[Event]) -> dict[str, Event]:
        """Return what is stored under the ids of ``events`` and of what they undo."""
        ids = list(dict.fromkeys(name for event in events for name in (event.id, event.undoes) if name))
        found: dict[str, Event] = {}
        for start in range(0, len(ids), CHUNK):
            wanted = (EVENTS.c.round == self._round) & EVENTS.c.id.in_(ids[start : start + CHUNK])
            found |= {event.id: event for _, event in events_of(self._connection, wanted)}
        return found

    def _resolved(self, undo: Event, stored: dict[str, Event]) -> Event:
        """Return ``undo`` with the event that it takes back, and that one's pair; refuse one that it may not."""
        if undo.undoes is None:
            of_annotator = (EVENTS.c.round == self._round) & (EVENTS.c.annotator == undo.annotator)
            mine = [event for _, event in events_of(self._connection, of_annotator)]
            known = {event.id for event in mine}
            mine += [e for e in stored.values() if e.annotator == undo.annotator and e.id not in known]
            left = [event for event in standing(mine) if undo.pair in ("", event.pair)]
            if not left:
                raise BadInput(f"event {undo.id}: nothing left to undo")
            undo = replace(undo, undoes=left[-1].id)
            stored[left[-1].id] = left[-1]
        target = stored.get(str(undo.undoes))
        if target is None or target.annotator != undo.annotator or target.type == "undo":
            raise BadInput(f"event {undo.id}: no event '{undo.undoes}' of yours to undo")
        return replace(undo, pair=target.pair, again=target.again)

    def _release(self, events: Sequence[Event], stored: dict[str, Event]) -> None:
        """End the leases that a vote or a skip has used up; an undo renews them."""
        annotators = {event.annotator for event in events}
        wanted = (LEASES.c.round == self._round) & LEASES.c.annotator.in_(annotators)
        rows = self._connection.execute(sql.select(LEASES.c.pair, LEASES.c.annotator, LEASES.c.seconds).where(wanted))
        leased = {(pair, annotator): seconds for pair, annotator, seconds in rows}
        for event in events:
            seconds = leased.get((event.pair, event.annotator))
            ends = event.type in ("vote", "skip")
            renews = event.type == "undo" and stored[str(event.undoes)].type in ("vote", "skip")
            if seconds is None or event.again or not (ends or renews):
                continue
            mine = wanted & (LEASES.c.pair == event.pair) & (LEASES.c.annotator == event.annotator)
            renewed = {"until": self.now + seconds, "granted": self._next_grant()}
            self._connection.execute(LEASES.update().where(mine).values(**({"until": 0.0} if ends else renewed)))

    def _next_grant(self) -> int:
        last = self._connection.execute(sql.select(sql.func.max(LEASES.c.granted)).where(LEASES.c.round == self._round))
        return int(last.scalar() or 0) + 1
