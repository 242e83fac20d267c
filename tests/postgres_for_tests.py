"""A PostgreSQL for the tests, in a temporary folder. Where its programs are missing the tests skip and say so."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Cluster:
    """One server of its own, reached by a socket in its folder; nothing listens on the network."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self.programs, self.folder, self.user = programs, folder, user
        self._run("initdb", "-D", folder / "data", "-A", "trust", "-U", "rlhf", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://rlhf@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-c listen_addresses= -k {self.folder} -c synchronous_commit=off"  # a store must ask for more itself
        self._run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-o", options, "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        """End the server; ``immediate`` is a crash: it writes nothing more, and recovers at the next start."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", how, "-w", "stop")

    def _run(self, program: str, *arguments: Any) -> None:
        account: dict[str, Any] = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid} if self.user else {}
        command = [str(self.programs / program), *map(str, arguments)]
        # to a file, not a pipe: the server would keep a pipe open
        with (self.folder / "said").open("w+") as said:
            done = subprocess.run(command, cwd=self.folder, stdout=said, stderr=said, check=False, **account)
            said.seek(0)
            assert done.returncode == 0, said.read()


def programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").is_file() and (place / "pg_ctl").is_file()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    place = programs()
    if place is None:
        pytest.skip("no PostgreSQL here (apt-get install postgresql); the same tests ran on SQLite")
    pytest.importorskip("psycopg", reason="no psycopg here (pip install 'psycopg[binary]')")
    user = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")), None)
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: a socket's may have no more than 107 characters
    try:
        if os.geteuid() != 0:
            user = None
        elif user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user here")
        else:
            shutil.chown(folder, user)
        cluster = Cluster(place, folder, user)
        yield cluster
        cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
