"""Whether all processes of a launch live: each says so every second, and all leave when one has fallen silent.

A collective waits for whoever does not come, half an hour by default: long enough for the slowest honest step, and far
too long for a process that was stopped, or whose machine is gone. So liveness is told apart from progress: a thread
counts up in the launch's own key-value store, however long the main thread computes, and watches the next process.
Beats are counted, not timed: a whole job that sleeps and wakes again has missed none.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import final

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from .errors import ProcessLost

PATIENCE = 15
"""Beats, about a second each, that a process may miss."""


@final
class Heartbeat:
    """The beats of this process, ``rank`` of ``count``, and its watch on the next one, within a ``with``."""

    def __init__(self, rank: int, count: int, orphaned: Callable[[], bool]) -> None:
        """Take the place of this process; ``orphaned`` tells whether its launcher is gone, which is no reason to leave.

        The loop sees that for itself, and saves what it has.
        """
        self.rank, self.count, self.next, self.orphaned = rank, count, (rank + 1) % count, orphaned
        self._prefix = f"rlhf-images/heartbeat/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        self._rounds = 0

    def __enter__(self) -> "Heartbeat":
        """Begin to beat, where there is more than one process."""
        if self.count > 1:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            self._store = TCPStore(address, port, is_master=False, timeout=timedelta(minutes=5))
            self._store.set(self._key(self.rank, "who"), json.dumps(_who()))
            self._first = self._store.get(self._key(0, "who"))
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Beat no more. All processes come here within seconds of one another, or not all come."""
        self._stopped.set()
        if self.count > 1:
            for thread in self._threads:
                thread.join(timeout=5)

    def _beat(self) -> None:
        """Count up, look at the next process, and leave if it, or another one that somebody watched, is lost."""
        last, missed, beat = b"", 0, 0
        with suppress(RuntimeError):  # the store is gone: see `_watch`
            while not self._stopped.wait(1):
                beat += 1
                self._store.set(self._key(self.rank, "beat"), str(beat))
                now = self._value(self._key(self.next, "beat"))
                missed, last = (missed + 1 if now == last else 0), now
                if missed == PATIENCE:
                    self._store.set(self._key(0, "lost"), str(self.next))
                lost = self._value(self._key(0, "lost"))
                if lost:
                    self._leave(int(lost), self._value(self._key(int(lost), "who")))
                self._rounds += 1

    def _watch(self) -> None:
        """Leave when the store itself no longer answers: process 0 or the launcher, whichever keeps it, is lost."""
        rounds, missed = 0, 0
        while missed < PATIENCE + 3:
            if self._stopped.wait(1) or self.orphaned():
                return
            missed, rounds = (missed + 1 if rounds == self._rounds else 0), self._rounds
        self._leave(0, self._first)

    def _leave(self, lost: int, who: bytes) -> None:
        """Say why, end the lost process if it is on this machine, for it cannot do so itself, and end this one."""
        if self._stopped.is_set():
            return
        os.write(2, f"rlhf-images: process {self.rank}: {ProcessLost.silent(lost)}\n".encode())
        with suppress(Exception):
            _kill(json.loads(who))
        os._exit(ProcessLost.exit_code)

    def _value(self, key: str) -> bytes:
        return bytes(self._store.get(key)) if self._store.check([key]) else b""

    def _key(self, rank: int, what: str) -> str:
        return f"{self._prefix}/{what}/{rank}"


def _who() -> dict[str, str | int | float]:
    """Return what tells this process from every other one on any machine."""
    namespace = Path("/proc/self/ns/pid")
    where = f"{socket.gethostname()}/{psutil.boot_time()}/{namespace.readlink() if namespace.is_symlink() else ''}"
    return {"where": where, "pid": os.getpid(), "born": psutil.Process().create_time()}


def _kill(who: dict[str, str | int | float]) -> None:
    mine, pid = _who(), int(who["pid"])
    if who["where"] == mine["where"] and pid != mine["pid"] and psutil.Process(pid).create_time() == who["born"]:
        os.kill(pid, signal.SIGKILL)
