"""How commits are made durable: a rollback journal at rest, a write-ahead log at work, and never one on a network."""

import os
import sqlite3
import subprocess
import sys
import uuid
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from rlhf_images.preferences import journal
from rlhf_images.preferences.database import sqlite_url
from rlhf_images.preferences.events import Event
from rlhf_images.preferences.store import Store

Part = namedtuple("Part", "device mountpoint fstype opts")


def vote() -> Event:
    return Event(str(uuid.uuid4()), "vote", "p", "ann", "left")


def mode(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.fixture
def file(tmp_path):
    journal.is_local.cache_clear()
    if not journal.is_local(tmp_path.resolve()):
        pytest.skip(f"{tmp_path} is not on a file system that is known to be local")
    yield tmp_path / "votes.db"
    journal.is_local.cache_clear()


@pytest.fixture
def mounted(monkeypatch):
    """Return a function that says on what kind of file system a folder lies."""

    def mount(folder: Path, kind: str) -> None:
        parts = [Part("/dev/x", "/", "ext4", ""), Part("server:/x", str(folder.resolve()), kind, "")]
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
        journal.is_local.cache_clear()

    yield mount
    journal.is_local.cache_clear()


def test_at_work_commits_go_to_the_log_and_afterwards_one_file_holds_all(file):
    store = Store(sqlite_url(file))
    events = [vote() for _ in range(4)]
    store.add(events[:1])
    assert mode(file) == "delete"
    with store.at_work():
        store.add(events[1:3])
        assert mode(file) == "wal"
        assert Store(sqlite_url(file)).events() == store.events()
        assert file.with_name("votes.db-wal").stat().st_size > 0
    assert mode(file) == "delete"
    assert {found.name for found in file.parent.iterdir()} <= {"votes.db", ".votes.db.turn"}
    store.add(events[3:])
    assert [event.id for event in store.events()] == [event.id for event in events]


def test_two_servers_at_work_end_one_after_the_other(file):
    store, other = Store(sqlite_url(file)), Store(sqlite_url(file))
    store.add([vote()])
    with store.at_work():
        with other.at_work():
            other.add([vote()])
        assert mode(file) == "wal"
        store.add([vote()])
    assert mode(file) == "delete"
    assert len(store.events()) == 3


def test_a_server_keeps_its_connections(file, monkeypatch):
    """SQLite syncs the folder as well at the first commit of each connection: half of what a vote waits for."""
    made = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: made.append(1) or connect(*given, **named))
    monkeypatch.setattr(sqlite3.dbapi2, "connect", sqlite3.connect)
    store = Store(sqlite_url(file))
    with store.at_work():
        for _ in range(5):
            store.add([vote()])
            store.events()
        assert len(made) <= 3
    assert mode(file) == "delete"
    assert len(store.events()) == 5


@pytest.mark.parametrize("gone", ["votes.db", "votes.db*"])
def test_a_file_that_is_removed_at_work_is_begun_anew(file, gone):
    store = Store(sqlite_url(file))
    with store.at_work():
        store.add([vote()])
        for path in file.parent.glob(gone):
            path.unlink()
        (after,) = store.add([vote()])
        assert [event.id for event in store.events()] == [after]
    assert [event.id for event in Store(sqlite_url(file)).events()] == [after]


KILLED = """
import os, sys
from rlhf_images.preferences.events import Event
from rlhf_images.preferences.store import Store
store = Store(sys.argv[1])
store.add([Event("1", "vote", "p", "ann", "left")])
with store.at_work():
    store.add([Event("2", "vote", "p", "ann", "right")])
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_server_committed_is_there(file):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(sqlite_url(file))], env=environment, check=False)
    assert done.returncode == -9
    store = Store(sqlite_url(file))
    assert [event.id for event in store.events()] == ["1", "2"]
    with store.at_work():
        store.add([vote()])
    assert mode(file) == "delete"
    assert len(store.events()) == 3


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "smb3", "fuse.sshfs", "9p", "lustre", "ceph", "unheard-of"])
def test_there_is_no_log_on_a_network(file, mounted, kind):
    mounted(file.parent, kind)
    store = Store(sqlite_url(file))
    store.add([vote()])
    with store.at_work():
        store.add([vote()])
        assert mode(file) == "delete"
        assert not file.with_name("votes.db-wal").exists()


def test_a_log_that_was_moved_to_a_network_ends_there(file, mounted):
    store = Store(sqlite_url(file))
    store.add([vote()])
    with closing(sqlite3.connect(file)) as left_behind:  # as by a server that was killed
        left_behind.execute("PRAGMA journal_mode = WAL")
    assert mode(file) == "wal"
    mounted(file.parent, "nfs4")
    store.add([vote()])
    assert mode(file) == "delete"
    assert len(store.events()) == 2


def test_the_nearest_mount_counts(tmp_path, mounted):
    near, far = tmp_path / "a", tmp_path / "a/b/c"
    mounted(near, "nfs4")
    assert not journal.is_local(far.resolve())
    assert not journal.is_local(near.resolve())
    assert journal.is_local(tmp_path.resolve())
