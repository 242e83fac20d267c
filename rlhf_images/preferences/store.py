"""The store: every event ever, in SQLite or PostgreSQL, on disk before it is acknowledged.

Whoever writes is alone in its round: the numbers of a round's events are in the order of their commits. What the tables
hold is in `tables`, what a writer does to them in `writing`, how the database is reached in `database`.
"""

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import final

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import BadInput
from .database import engine, lock, turn
from .events import Event, Whose, standing
from .journal import written_ahead
from .tables import EVENTS, LEASES, METADATA, events_of
from .writing import Writing

_EXAMPLES = "give sqlite:///votes.db or postgresql://user@host/database"


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
        self._engine = engine(self.url, self.name)
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

    def events(self, annotator: Whose = None) -> list[Event]:
        """Return the events (of ``annotator``), in order."""
        wanted = EVENTS.c.round == self.round
        if annotator is not None:
            wanted &= EVENTS.c.annotator.in_([annotator] if isinstance(annotator, str) else annotator)
        with self._reading() as connection:
            return [event for _, event in events_of(connection, wanted)] if connection else []

    def votes(self, annotator: Whose = None) -> list[Event]:
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
                    lock(connection, self.round)
                if not self._known and not self._present(connection):
                    if self.url.drivername != "sqlite":
                        lock(connection, "")  # two rounds may begin at once
                    METADATA.create_all(connection)
                yield Writing(connection, self.round, self.clock())
            self._known = True

    def _queue(self) -> AbstractContextManager[None]:
        """Return what to wait in before writing; PostgreSQL has its own."""
        return turn(Path(str(self.url.database))) if self.url.drivername == "sqlite" else nullcontext()

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
            self._engine = engine(self.url, self.name, kept=True)
            try:
                yield
            finally:
                self._engine.dispose()  # while one is open, the log cannot end
                self._engine = engine(self.url, self.name)

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
