"""The two halves of a layout: how its pairs are read out of files, and how ours are written as it wants them."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from ...data import FORMATS
from ...errors import BadInput
from ..pairs import Pairs, PreferencePair
from .compared import Compared
from .own import Judged
from .rows import Row
from .tables import Unread, rows

Group = tuple[Row, ...]
"""Rows that are judged together: one for most layouts, all pictures of a prompt for some."""
Splits = dict[str, str]
"""Which files make which split of a data set, for its card: ``{"train": "data/train-*.parquet"}``; empty if none do."""


def one_by_one(source: Path) -> Iterator[Group | Unread]:
    """Yield every row of the tables in ``source`` as a group of its own."""
    for row in rows(source):
        yield row if isinstance(row, Unread) else (row,)


@final
@dataclass(frozen=True)
class Importer:
    """A layout that can be read."""

    summary: str
    """What it is, in a line, for --help and the docs."""
    pairs: Callable[[Group], Iterable[Compared]]
    """A group of rows → its pairs. It touches no file, and refuses a row by `BadRow`."""
    groups: Callable[[Path], Iterator[Group | Unread]] = one_by_one
    """The source → its rows, in the groups that are judged together."""


@final
@dataclass(frozen=True)
class Exporter:
    """A layout that can be written."""

    summary: str
    write: Callable[["Export", Path], Splits]
    """Pairs and an empty folder → which of the files written there make which split."""
    unjudged: bool = False
    """Whether it has a place for pairs without a vote."""


@final
@dataclass(frozen=True)
class Export:
    """Judged pairs with their pictures at hand."""

    pairs: Pairs
    every: list[PreferencePair]
    """The pairs with whole pictures, in their order: all of them if the layout wants, else those that are judged."""
    voted: list[Judged]
    """Those with at least one vote, with their votes."""
    names: dict[str, str]
    """What each annotator is called in what is written."""
    named: bool
    """Whether that is their own name, not a number."""

    def picture(self, picture_id: str) -> bytes:
        """Return the bytes of a picture, as they were taken in. Raises `BadInput` if they are not those any more."""
        path = self.pairs.folder / "images" / f"{picture_id}.png"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error})") from None
        if hashlib.sha256(data).hexdigest() != picture_id:
            raise BadInput(f"{path}: corrupt picture (its bytes are not those of its name)")
        return data

    def write(self, picture_id: str, folder: Path, stem: str | None = None) -> str:
        """Write a picture into ``folder`` under its id (or ``stem``), and return the file's name."""
        data = self.picture(picture_id)
        name = f"{stem or picture_id}{ending(data)}"
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
        return name

    def model(self, picture_id: str) -> str:
        """Return what drew a picture, or ""."""
        picture = self.pairs.pictures[picture_id]
        return str(picture.settings.get("model") or picture.source)


def ending(data: bytes) -> str:
    """Return the usual ending of a picture file with these bytes, such as ``.jpg``."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        form = str(picture.format)
    return {"JPEG": ".jpg", "TIFF": ".tif"}.get(form, f".{form.lower()}")
