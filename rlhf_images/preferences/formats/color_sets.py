"""Picks between two sets of eight colours, drawn as stripes: real human choices that need no picture files.

The data of mpetroff/accessible-color-cycles (MIT), as its SQLite file or as lines of JSON:

    results.db    table picks: id, c1, c2 (colours, joined by ","), sp (1 or 2: the set that was picked), …
    *.jsonl       {rater, set_1: ["166573", …], set_2: […], set_pick: 1}

Everyone was asked about the same fifty pairs twice: the second time is a repeat, which tells how far people agree with
themselves. Only which set was picked is read; the order of colours that was picked after it is another question.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from ...data import encode
from ...errors import BadInput
from ..events import Choice
from .compared import Ballot, Compared
from .layout import Group
from .ratings import grouped
from .rows import BadRow, Reference, Row, items
from .tables import Unread, rows

PROMPT = "a set of eight colors for charts"
SIDE = 64
"""Pixels of a picture's side: eight for each stripe."""
SETS = (("set_1", "c1"), ("set_2", "c2"))
"""What the columns of the two sets are called."""
COLOR = re.compile(r"#?([0-9a-fA-F]{6})\Z")


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield each person's picks between the same two sets together, from a database or a table."""
    found = _database(source) if source.suffix in (".db", ".sqlite", ".sqlite3") else rows(source)
    return grouped(found, _key)


def _key(row: Row) -> object:
    _picked(row)
    return row.text_or("", "rater", "id"), *(_colors(row, names) for names in SETS)


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of two sets: a person's first pick is the vote, later ones are repeats."""
    row = group[0]
    left, right = (Reference(_stripes(_colors(row, names)), row) for names in SETS)
    by = row.text_or("unknown", "rater", "id")
    ballots = tuple(Ballot(by, _picked(row), again=number > 0) for number, row in enumerate(group))
    yield Compared(PROMPT, left, right, ballots)


def _picked(row: Row) -> Choice:
    picked = row.real("set_pick", "sp")
    if picked not in (1, 2):
        raise BadRow(f"'set_pick' is {picked}; expected 1 or 2")
    return "left" if picked == 1 else "right"


def _colors(row: Row, names: tuple[str, str]) -> tuple[str, ...]:
    """Return the eight colours of a set, each as six hexadecimal digits."""
    told = row.value(*names)
    listed = told.split(",") if isinstance(told, str) else items(told, names[0])
    found = [match[1] for color in listed if (match := COLOR.match(str(color)))]
    if len(found) != 8 or len(listed) != 8:
        raise BadRow(f"'{names[0]}' is not eight colors such as 8e8cb1")
    return tuple(found)


def _stripes(colors: tuple[str, ...]) -> bytes:
    """Return a PNG of upright stripes."""
    values = torch.tensor([list(bytes.fromhex(color)) for color in colors])
    return encode(values.T[:, None, :].repeat_interleave(SIDE // 8, dim=2).expand(3, SIDE, SIDE) / 255)


def _database(path: Path) -> Iterator[Row]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            found = database.execute("SELECT id, c1, c2, sp FROM picks ORDER BY rowid")
            for number, values in enumerate(found, 1):
                yield Row(path.name, number, dict(zip(("id", "c1", "c2", "sp"), values, strict=True)))
    except sqlite3.Error as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
