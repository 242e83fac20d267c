"""Pictures by the names that rows give them: from the folders that were named on the command line, and nowhere else."""

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import final
from urllib.parse import parse_qs, unquote, urlsplit

from ...data import decode
from ..folder import ENDINGS, MAX_BYTES
from ..pairs import picture_id
from .rows import BadRow, Reference

SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp")
"""Tried behind a name, in this order: some layouts give ids instead of file names."""
DEEPEST = 8
"""How many folders of a URL are kept when its picture is looked for."""


@final
class Shelf:
    """Folders of pictures. No link and no name leads out of them, and no URL is ever fetched."""

    def __init__(self, source: Path, images: Path | None) -> None:
        beside = source if source.is_dir() else source.parent
        self.roots: Sequence[Path] = [path.resolve() for path in ([images] if images else []) + [beside]]
        self.images = images.resolve() if images else None
        self.whole: set[str] = set()
        """Ids of the pictures that were decoded once."""
        self.refused: dict[tuple[str, PurePosixPath], str] = {}
        """Names that were looked for in vain, beside which table, and why: a ranking asks for each several times."""

    def read(self, reference: Reference) -> tuple[str, bytes]:
        """Return a picture's id and its bytes, which are a whole picture within the pixel limit. Raises `BadRow`."""
        data = self._bytes(reference)
        if len(data) > MAX_BYTES:
            raise BadRow(f"a picture of {len(data)} bytes, the limit is {MAX_BYTES}")
        found = picture_id(data)
        if found not in self.whole:
            try:
                decode(data)
            except ValueError as error:
                raise BadRow(f"{_name(reference)}: {error}") from None
            self.whole.add(found)
        return found, data

    def _bytes(self, reference: Reference) -> bytes:
        value = reference.value
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise BadRow(f"{type(value).__name__} names no picture")
        if value.startswith("data:"):
            return _embedded(value)
        table = PurePosixPath(reference.row.file).parent
        if (value, table) not in self.refused:
            try:
                return self._found(value, table)
            except BadRow as error:
                self.refused[value, table] = str(error)
        raise BadRow(self.refused[value, table])

    def _found(self, value: str, table: PurePosixPath) -> bytes:
        """Return the bytes of the first file that a name may mean. Raises `BadRow` where there is none, saying why."""
        for path in self._places(value, table):
            try:
                if not os.path.lexists(path):
                    continue
                found = path.resolve(strict=True)
                if not any(found.is_relative_to(root) for root in self.roots):
                    raise BadRow(f"'{value[:200]}' leads out of the folder")
                if found.is_file():
                    if found.stat().st_size > MAX_BYTES:
                        raise BadRow(f"{value[:200]}: more than {MAX_BYTES} bytes")
                    return found.read_bytes()
            except (OSError, ValueError, RuntimeError):  # no such file, a name that no file can have, a loop of links
                continue
        if _is_url(value) and self.images is None:
            raise BadRow(f"'{value[:200]}' is a URL, and nothing is fetched; give the pictures' folder as --images")
        raise BadRow(f"no picture '{value[:200]}'" + ("" if self.images else "; if it lies elsewhere, give --images"))

    def _places(self, name: str, table: PurePosixPath) -> Iterator[Path]:
        """Yield where a picture may lie: under its name, beside its ``table`` too, and below --images under its end."""
        parts = _parts(name)
        if not parts:
            return
        endings = SUFFIXES[:1] if PurePosixPath(parts[-1]).suffix.lower() in ENDINGS else SUFFIXES
        if not _is_url(name):
            for root in self.roots:
                for ending in endings:
                    yield root.joinpath(*parts[:-1], parts[-1] + ending)
                    yield root.joinpath(table, *parts[:-1], parts[-1] + ending)
        if self.images:
            for start in range(max(0, len(parts) - DEEPEST), len(parts)):
                for ending in endings:
                    yield self.images.joinpath(*parts[start:-1], parts[-1] + ending)


def _is_url(name: str) -> bool:
    """Return whether a name is an address, not a path below a folder: ``https://…``, ``s3://…``, ``/data/upload/…``."""
    return "://" in name or name.startswith("/")


def _parts(name: str) -> tuple[str, ...]:
    """Return the folders and the file of a path or URL."""
    if _is_url(name):
        try:
            address = urlsplit(name)
        except ValueError:
            raise BadRow(f"'{name[:200]}' is no address") from None
        inner = parse_qs(address.query).get("d", [address.path])[0]  # label-studio: /data/local-files/?d=folder/file
        name = unquote(inner)
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _embedded(value: str) -> bytes:
    head, comma, body = value.partition(",")
    if not comma or not head.endswith(";base64") or len(body) > 4 * MAX_BYTES // 3 + 4:
        raise BadRow("a 'data:' picture that is not base64, or too long")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise BadRow("a 'data:' picture whose base64 is broken") from None


def _name(reference: Reference) -> str:
    value = reference.value
    if isinstance(value, dict):
        value = value.get("path")
    return value[:200] if isinstance(value, str) and not value.startswith("data:") else "picture"
