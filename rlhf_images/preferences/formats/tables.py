"""Rows out of files: JSON, lines of JSON, CSV and parquet, a few at a time where the format allows it.

A line that cannot be read is a row with a reason. A file that cannot be read at all is `BadInput`.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from ...errors import BadInput
from .rows import BadRow, Row

MAX_JSON = 2 << 30
"""Bytes of a JSON file, which is read whole."""
MAX_LINE = 64 << 20
"""Bytes of a line of JSON."""
BATCH = 16
"""Rows of a parquet file in memory at a time: they hold pictures."""
NOT_ROWS = {"dataset_info.json", "dataset_dict.json", "state.json", "run.json", "set_aside.jsonl"}
"""Files beside tables that hold no rows."""


@final
class Unread:
    """A row that could not even be read: where it stands, and why."""

    def __init__(self, file: str, number: int, reason: str) -> None:
        self.place = f"{file} row {number}"
        self.reason = reason


def rows(source: Path) -> Iterator[Row | Unread]:
    """Yield the rows of file ``source``, or of every table in folder ``source`` and below it, by name."""
    found = tables(source)
    if not found:
        raise BadInput(f"{source}: no table in it; expected {', '.join(READERS)} files")
    for path in found:
        name = path.name if source == path else str(path.relative_to(source))
        yield from rows_of(path, name)


def rows_of(path: Path, name: str) -> Iterator[Row | Unread]:
    """Yield the rows of one file, which messages call ``name``."""
    number = 0
    try:
        for number, found in READERS[path.suffix.lower()](path):
            if isinstance(found, BadRow):
                yield Unread(name, number, str(found))
            elif not isinstance(found, dict):
                yield Unread(name, number, f"{type(found).__name__} is not an object with named values")
            else:
                yield Row(name, number, {str(key): value for key, value in found.items()})
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError, MemoryError) as error:  # pyarrow's errors are ValueErrors, too
        where = f"cannot be read after row {number}" if number else "cannot be read"
        raise BadInput(f"{path}: {where} ({' '.join(str(error).split())[:300] or type(error).__name__})") from None


def tables(source: Path) -> list[Path]:
    """Return the table files at or below ``source``, sorted; links and hidden files are left out."""
    if source.is_file():
        if source.suffix.lower() not in READERS:
            raise BadInput(f"{source}: not a table that is read; expected {', '.join(READERS)}")
        return [source]
    if not source.is_dir():
        raise BadInput(f"{source}: no such file or folder")
    found = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in READERS and name[0] != "." and name not in NOT_ROWS and not path.is_symlink():
                found.append(path)
    return sorted(found)


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a JSON file: a list of them, an object of them, or an object of equally long columns."""
    if path.stat().st_size > MAX_JSON:
        raise BadInput(f"{path}: more than {MAX_JSON >> 30} GiB of JSON, which is read whole; write it as JSON lines")
    tree = json.loads(path.read_bytes())
    if isinstance(tree, dict):
        columns = list(tree.values())
        lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
        if len(lengths) == 1 and lengths != {-1}:
            tree = [dict(zip(tree, values, strict=True)) for values in zip(*columns, strict=True)]
        elif any(isinstance(value, dict) for value in columns):
            tree = columns
        else:
            tree = [tree]
    if not isinstance(tree, list):
        raise ValueError("neither a list of rows nor an object of them")
    yield from enumerate(tree, 1)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise ValueError(f"line {number} is longer than {MAX_LINE} bytes")
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError) as error:
                row = BadRow(f"not JSON ({' '.join(str(error).split())[:100]})")
            yield number, row


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restkey="more columns than names", strict=True)
        while True:
            try:
                row: Any = {name: value for name, value in next(reader).items() if value != ""}
            except StopIteration:
                return
            except csv.Error as error:
                row = BadRow(f"not CSV ({error})")
            yield reader.line_num, row


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet  # type: ignore[import-untyped,unused-ignore]

    with parquet.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=BATCH):
            for position in range(batch.num_rows):
                number += 1
                try:
                    row: Any = batch.slice(position, 1).to_pylist()[0]
                except (ValueError, TypeError, OverflowError) as error:
                    row = BadRow(f"not readable ({' '.join(str(error).split())[:100]})")
                yield number, row


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".parquet": _parquet,
    ".jsonl": _lines,
    ".json": _json,
    ".csv": _csv,
}
"""How a table is read, by its ending."""
