"""Writing files so that a crash leaves either the old one or the new one, whole."""

import json
import os
from pathlib import Path
from typing import Any


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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically. NaN is refused: JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
