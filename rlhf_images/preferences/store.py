"""The store: every event ever, in SQLite or PostgreSQL, on disk before it is acknowledged.

Two tables, never updated but for leases, which say who has been handed what until when:

  events  number, round, id, type, pair, annotator, choice, swapped, again, strength, ms, undoes, text, tags, at
  leases  round, pair, annotator, granted, until, seconds

``round`` is the folder's id, so that a team's one database holds the rounds of many folders. Whoever writes is alone in
its round: the numbers of a round's events are in the order of their commits.
"""

import errno
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from ..errors import BadInput
from .events import Event, standing
from .journal import settle, written_ahead

WAIT = 60
"""Seconds that a writer waits for the others."""
CHUNK = 500
"""Ids in one question to the database."""
METADATA = sql.MetaData()
_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # only INTEGER counts up by itself there
EVENTS = sql.Table(
    "events",
    METADATA,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sql.Column("round", sql.Text, nullable=False),
    sql.Column("id", sql.Text, nullable=False),
    sql.Column("type", sql.Text, nullable=False),
    sql.Column("pair", sql.Text, nullable=False),
    sql.Column("annotator", sql.Text, nullable=False),
    sql.Column("choice", sql.Text),
    sql.Column("swapped", sql.Boolean, nullable=False),
    sql.Column("again", sql.Boolean, nullable=False),
    sql.Column("strength", sql.Integer, nullable=False),
    sql.Column("ms", sql.Integer),
    sql.Column("undoes", sql.Text),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("tags", sql.Text, nullable=False),
    sql.Column("at", sql.Double, nullable=False),
    sql.UniqueConstraint("round", "id"),
    sql.Index("events_of_annotator", "round", "annotator", "number"),
)
LEASES = sql.Table(
    "leases",
    METADATA,
    sql.Column("round", sql.Text, primary_key=True),
    sql.Column("pair", sql.Text, primary_key=True),
    sql.Column("annotator", sql.Text, primary_key=True),
    sql.Column("granted", sql.BigInteger, nullable=False),
    sql.Column("until", sql.Double, nullable=False),
    sql.Column("seconds", sql.Double, nullable=False),
    sql.Index("leases_in_order", "round", "granted"),
)


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
class Store:
    """The events of one round. Made at the first write; may be used from many threads and processes at once."""

    def __init__(self, url: str | URL, round: str = "", clock: Callable[[], float] = time.time) -> None:
        """Open ``sqlite:///FILE`` or ``postgresql://…``; nothing is touched yet. An unusable URL is a `BadInput`."""
        try:
            self.url = make_url(url)
        except ArgumentError:
            raise BadInput(f"--store {str(url)[:80]}: no database URL; {_EXAMPLES}") from None
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        if self.url.drivername not in ("sqlite", "postgresql+psycopg") or not self.url.database:
            raise BadInput(f"--store {self.name}: cannot be the store; {_EXAMPLES}")
        self.round, self.clock = round, clock
        self._engine = _engine(self.url, self.name)
        self._alone = threading.Lock()  # waiting here is fair and quick; waiting for the database's own lock is neither
        self._known = False

    @property
    def name(self) -> str:
        """Return what the store is called in a message: its file, or its URL without the password."""
        file = self.url.drivername == "sqlite" and self.url.database
        return file or self.url.render_as_string(hide_password=True)

    def add(self, events: Sequence[Event]) -> list[str]:
        """Store ``events``, all or none, on disk when this returns; return their ids, each once.

        One that is already there is not stored again. Raises `Refused` for an id that is there with other content, and
        for an undo of an event that is unknown or another annotator's.
        """
        if not events:
            return []
        with self.writing() as writing:
            writing.add(events)
        return list(dict.fromkeys(event.id for event in events))

    def events(self, annotator: str | None = None) -> list[Event]:
        """Return the events (of ``annotator``), in order."""
        wanted = EVENTS.c.round == self.round
        if annotator is not None:
            wanted &= EVENTS.c.annotator == annotator
        with self._reading() as connection:
            return [event for _, event in _events(connection, wanted)] if connection else []

    def votes(self, annotator: str | None = None) -> list[Event]:
        """Return the votes that count (of ``annotator``), in order: the newest that stands of each one on each pair."""
        votes = [event for event in standing(self.events(annotator)) if event.type == "vote" and not event.again]
        newest = {(vote.pair, vote.annotator): vote.id for vote in votes}
        return [vote for vote in votes if newest[vote.pair, vote.annotator] == vote.id]

    def voted(self, annotator: str) -> set[str]:
        """Return the ids of the pairs on which a vote of ``annotator`` stands."""
        events = standing(self.events(annotator))
        return {event.pair for event in events if event.type == "vote" and not event.again}

    @contextmanager
    def writing(self) -> Iterator["Writing"]:
        """Be alone in the round for the time of the ``with``; what was written is on disk when it ends, or gone."""
        with self._alone, self._mistakes(), self._queue():
            self._known = self._known and self._begun
            with self._engine.begin() as connection:
                if self.url.drivername != "sqlite":
                    connection.execute(sql.text("SET LOCAL synchronous_commit TO on"))  # whatever the server's default
                    _lock(connection, self.round)
                if not self._known and not self._present(connection):
                    if self.url.drivername != "sqlite":
                        _lock(connection, "")  # two rounds may begin at once
                    METADATA.create_all(connection)
                yield Writing(connection, self.round, self.clock())
            self._known = True

    def _queue(self) -> AbstractContextManager[None]:
        """Return what to wait in before writing; PostgreSQL has its own."""
        return _turn(Path(str(self.url.database))) if self.url.drivername == "sqlite" else nullcontext()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let commits of a server be quicker, and as durable, for the time of the ``with``.

        They are written ahead (see `journal.written_ahead`), and connections are kept: SQLite syncs the folder as well
        at the first commit of each one.
        """
        if self.url.drivername != "sqlite":
            yield
            return
        with written_ahead(Path(str(self.url.database))):
            self._engine = _engine(self.url, self.name, kept=True)
            try:
                yield
            finally:
                self._engine.dispose()  # while one is open, the log cannot end
                self._engine = _engine(self.url, self.name)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """Yield a connection for reading, or None where nothing was ever written."""
        if not self._begun:
            yield None
            return
        with self._mistakes(), self._engine.connect() as plain:
            connection = plain.execution_options(reads=True)
            self._known = self._known or self._present(connection)
            yield connection if self._known else None

    @property
    def _begun(self) -> bool:
        """Return False where there is not even a file."""
        return self.url.drivername != "sqlite" or Path(str(self.url.database)).exists()

    def _present(self, connection: Connection) -> bool:
        """Return whether the tables are there; refuse those of another version."""
        there = sql.inspect(connection)
        for table in (EVENTS, LEASES):
            if not there.has_table(table.name):
                return False
            found = {column["name"] for column in there.get_columns(table.name)}
            if found != set(table.columns.keys()):
                raise BadInput(
                    f"{self.name}: its table '{table.name}' is of another version or program; move it away and label"
                    " again, or give another --store"
                )
        return True

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            if "disk is full" in reason or "No space left" in reason:
                raise OSError(errno.ENOSPC, f"{self.name}: {reason}") from None
            raise BadInput(
                f"{self.name}: cannot be used ({reason[:200]}); nothing of this was stored, try again"
                f" or give another --store"
            ) from None


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
        return _events(self._connection, (EVENTS.c.round == self._round) & (EVENTS.c.number > after))

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
            found |= {event.id: event for _, event in _events(self._connection, wanted)}
        return found

    def _resolved(self, undo: Event, stored: dict[str, Event]) -> Event:
        """Return ``undo`` with the event that it takes back, and that one's pair; refuse one that it may not."""
        if undo.undoes is None:
            of_annotator = (EVENTS.c.round == self._round) & (EVENTS.c.annotator == undo.annotator)
            mine = [event for _, event in _events(self._connection, of_annotator)]
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


_EXAMPLES = "give sqlite:///votes.db or postgresql://user@host/database"


def sqlite_url(file: Path) -> URL:
    """Return the URL of a store in ``file``, whatever characters its path has."""
    return URL.create("sqlite", database=str(file.resolve()))


def _engine(url: URL, name: str, *, kept: bool = False) -> Engine:
    """Return the way to the database at ``url``; connections to SQLite last as long as their use, unless ``kept``."""
    if url.drivername == "sqlite":
        arguments = {"timeout": WAIT, "isolation_level": None}
        engine = sql.create_engine(url, poolclass=QueuePool if kept else NullPool, connect_args=arguments)
        file = Path(str(url.database)).resolve()

        def connected(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
            settle(connection, file.parent)
            record.info["file"] = _identity(file)

        sql.event.listen(engine, "connect", connected)
        sql.event.listen(engine, "checkout", lambda _, record, __: _refuse_removed(file, record))
        sql.event.listen(engine, "begin", _begin)
        return engine
    try:
        return sql.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ImportError:
        raise BadInput(f"--store {name}: needs psycopg; install it: pip install 'psycopg[binary]'") from None


def _identity(file: Path) -> tuple[int, int] | None:
    """Return what tells ``file`` from another of its name; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_removed(file: Path, record: ConnectionPoolEntry) -> None:
    """Have a kept connection made anew where its file was removed or replaced: votes into it would be nowhere."""
    if record.info["file"] != _identity(file):
        raise DisconnectionError


def _lock(connection: Connection, name: str) -> None:
    """Wait until nobody else holds the lock ``name``, and hold it until the end of the transaction."""
    key = int.from_bytes(hashlib.sha256(f"rlhf-images {name}".encode()).digest()[:8], "big", signed=True)
    connection.execute(sql.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _turn(file: Path) -> Iterator[None]:
    """Wait for one's turn among the processes that write to ``file``, asleep and in order.

    Safety is SQLite's; but its own waiting polls, longer and longer, so that of many writers some never get in: 18 of
    64 gave up in a trial. Where there is no such lock (Windows, some network folders) that is still how it works.
    """
    try:
        import fcntl

        descriptor = os.open(file.with_name(f".{file.name}.turn"), os.O_RDONLY | os.O_CREAT)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _events(connection: Connection, wanted: sql.ColumnElement[bool]) -> list[tuple[int, Event]]:
    rows = connection.execute(sql.select(EVENTS).where(wanted).order_by(EVENTS.c.number)).mappings()
    return [
        (
            row["number"],
            Event(
                **{name: value for name, value in row.items() if name not in ("number", "round", "tags")},
                tags=tuple(json.loads(row["tags"])),
            ),
        )
        for row in rows
    ]
