"""The way to the database: connections, who waits for whom, and a file that was replaced under a kept connection."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from ..errors import BadInput
from .journal import settle

WAIT = 60
"""Seconds that a writer waits for the others."""


def sqlite_url(file: Path) -> URL:
    """Return the URL of a store in ``file``, whatever characters its path has."""
    return URL.create("sqlite", database=str(file.resolve()))


def engine(url: URL, name: str, *, kept: bool = False) -> Engine:
    """Return the way to the database at ``url``; connections to SQLite last as long as their use, unless ``kept``."""
    if url.drivername == "sqlite":
        arguments = {"timeout": WAIT, "isolation_level": None}
        found = sql.create_engine(url, poolclass=QueuePool if kept else NullPool, connect_args=arguments)
        file = Path(str(url.database)).resolve()

        def connected(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
            settle(connection, file.parent)
            record.info["file"] = _identity(file)

        sql.event.listen(found, "connect", connected)
        sql.event.listen(found, "checkout", lambda _, record, __: _refuse_removed(file, record))
        sql.event.listen(found, "begin", _begin)
        return found
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


def lock(connection: Connection, name: str) -> None:
    """Wait until nobody else holds the lock ``name``, and hold it until the end of the transaction."""
    key = int.from_bytes(hashlib.sha256(f"rlhf-images {name}".encode()).digest()[:8], "big", signed=True)
    connection.execute(sql.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def turn(file: Path) -> Iterator[None]:
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
