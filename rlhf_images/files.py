"""Writing files so that a crash leaves either the old one or the new one, whole."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def write_atomically(path: Path, data: bytes, sync: bool = True) -> None:
    """Write ``data`` to ``path`` beside it first, sync, then rename into place.

    Who writes thousands of files may leave out ``sync`` and call `os.sync` once before what names them is written.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staged.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left in ``folder`` of what they were writing."""
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically. NaN is refused: JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Within its ``with``, what safetensors makes of a full disk at ``path`` is an `OSError` again."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from None


def sync_tree(folder: Path) -> None:
    """Make every file in and below ``folder`` that somebody else wrote there survive a power cut."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.is_file():
            sync_folder(path)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Make the names in a folder, or the contents of a file, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
