"""Parquet with the pictures' bytes inside: what is loaded elsewhere is whole, and needs no other file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

GROUP_BYTES = 64 << 20
"""Bytes of the rows that are written, and later read, at a time."""
FILE_BYTES = 1 << 30
"""Bytes after which the next file begins."""


def write_parquet(out: Path, name: str, features: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``rows`` as ``<out>/<name>-00000.parquet`` and on, with the data set's ``features`` in their schema.

    So ``datasets.load_dataset("parquet", data_files=…)`` knows which columns are pictures. Without any row one empty
    file is written, whose columns still tell what would be there.
    """
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
    import pyarrow.parquet as parquet  # type: ignore[import-untyped,unused-ignore]

    schema = features.arrow_schema
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    for number, groups in enumerate(_files(_groups(rows))):
        with parquet.ParquetWriter(out / f"{name}-{number:05d}.parquet", schema) as file:
            for group in groups:
                file.write_table(pa.Table.from_pylist(group, schema))


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yield lists of rows of about `GROUP_BYTES`, each with its size; an empty one if there are no rows."""
    group: list[dict[str, Any]] = []
    size = total = 0
    for row in rows:
        group.append(row)
        size += sum(_size(value) for value in row.values())
        if size >= GROUP_BYTES:
            yield group, size
            total, group, size = total + 1, [], 0
    if group or not total:
        yield group, size


def _files(groups: Iterator[tuple[list[dict[str, Any]], int]]) -> Iterator[Iterator[list[dict[str, Any]]]]:
    """Yield the groups of each file of about `FILE_BYTES`. A file's groups must be used up before the next is asked."""
    for first, first_size in groups:

        def of_file(group: list[dict[str, Any]] = first, size: int = first_size) -> Iterator[list[dict[str, Any]]]:
            yield group
            while size < FILE_BYTES and (more := next(groups, None)):
                yield more[0]
                size += more[1]

        yield of_file()


def _size(value: object) -> int:
    if isinstance(value, dict):
        value = value.get("bytes")
    return len(value) if isinstance(value, bytes | str) else 8
