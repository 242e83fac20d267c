"""The record every stage keeps in its folder, `run.json`: what was asked, by what, how long, and whether it ended."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import psutil

from .changes import FROZEN, Fields
from .config import build, changes, differences, plain
from .errors import BadInput
from .files import write_json

PACKAGES = (
    "rlhf-images",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "trl",
    "open-clip-torch",
    "datasets",
)


@final
class Run:
    """A stage's output folder. Opening it refuses a folder that belongs to anything else, and touches nothing then."""

    def __init__(
        self,
        stage: str,
        config: Any,
        out: str | Path,
        *,
        inputs: Sequence[str] = (),
        fields: Fields = FROZEN,
        writes: bool = True,
    ) -> None:
        """Open ``out`` for ``stage``.

        ``inputs`` are folders it reads: a run of ours in one of them must still be the same when this run continues.
        ``fields`` says which fields of ``config`` may differ then from what they were.
        """
        self.folder = Path(out)
        self.path = self.folder / "run.json"
        self.writes = writes
        """False on every process but the main one."""
        config_values, read = plain(config), {folder: digest(folder) for folder in inputs if digest(folder)}
        self.changed: dict[str, str] = {}
        """What has changed since the last launch and is to be remembered: field → ``before→after``."""
        if self.path.is_file():
            self.record = read_record(self.folder)
            if self.record["stage"] != stage:
                raise BadInput(f"{out}: already holds a '{self.record['stage']}' run; choose another 'out'")
            changed = changes(_completed(config, self.record["config"]), config_values)
            refused = [f"{key} {changed[key]}" for key in fields.refused(changed)]
            refused += differences(self.record.get("inputs", {}), read, "what lies in ")
            if refused:
                raise BadInput(
                    f"{out}: already holds another run ({'; '.join(refused[:4])}); "
                    "choose another 'out' or remove that folder"
                )
            self.changed = {key: changed[key] for key in fields.kept(changed)}
            self.record["config"] = config_values
        elif self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{out}: is a file; choose another 'out'")
        elif self.folder.is_dir() and any(not path.name.startswith(".run.json.") for path in self.folder.iterdir()):
            raise BadInput(f"{out}: is not empty and holds no run of ours; choose another 'out'")
        else:
            self.record = {"stage": stage, "config": config_values, "inputs": read, "seconds": 0.0, "finished": False}
        self.new = not self.path.is_file()
        """Whether nothing of this run was there before."""
        self._before = float(self.record["seconds"])

    @property
    def finished(self) -> bool:
        """Return whether the stage has already run to its end."""
        return bool(self.record["finished"])

    @property
    def seconds(self) -> float:
        """Return the stage's wall time so far, over all its launches in turn, imports included."""
        return self._before + elapsed()

    def note_changes(self, done: int) -> None:
        """Remember what has changed, fields and versions, as a change that came after ``done`` finished steps."""
        told = [f"{key} {change}" for key, change in self.changed.items()]
        if "versions" in self.record:
            told += differences(self.record["versions"], versions())
        if told:
            noted = self.record.setdefault("changes", {})
            noted[f"after step {done}"] = [*noted.get(f"after step {done}", []), *told]

    def keep_changes(self, done: int) -> None:
        """Write down what has changed of a run that has ended after ``done`` steps, such as who judges it."""
        if self.changed:
            self.note_changes(done)
            self.save(finished=True)

    def save(self, *, finished: bool = False, **result: Any) -> None:
        """Write the record with the time so far and ``result``'s values."""
        self.record |= {
            "command": command(),
            "versions": versions(),
            "commit": commit(),
            "seconds": round(self.seconds, 2),
        }
        self.record |= {"finished": finished, **result}
        if self.writes:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"{self.folder}: cannot be made ({error.strerror}); choose another 'out'") from None
            write_json(self.path, self.record)

    def withdraw(self) -> None:
        """Take back a record that `save` has just made, with its folder if nothing else is in it."""
        if self.writes and self.new:
            self.path.unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()


def _completed(config: Any, before: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an earlier launch with the fields that came to its class since, at their defaults."""
    try:
        return plain(build(type(config), before, "run.json"))
    except BadInput:
        return before


def read_record(folder: str | Path) -> dict[str, Any]:
    """Return the `run.json` of ``folder``."""
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: no readable run record ({error})") from None
    kinds = {"stage": str, "config": dict, "seconds": float | int, "finished": bool}
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise BadInput(f"{path}: not a run record of ours")
    return record


def digest(folder: str) -> str | None:
    """Return a short hash of the run that lies in ``folder``, or None where there is none of ours."""
    path = Path(folder) / "run.json"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None


def elapsed() -> float:
    """Return the seconds since this process started."""
    return time.time() - float(psutil.Process().create_time())


def command() -> str:
    """Return the command line of this process, without the interpreter."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """Return the git commit of the source tree, with ``+`` if it was changed since, or None outside of ours."""
    try:
        if _git("rev-parse", "--show-prefix") != "rlhf_images/":
            return None  # installed somewhere inside another repository
        changed = _git("status", "--porcelain", ".", "../reward_models")
        return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()
