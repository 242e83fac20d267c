"""A folder of pictures per prompt, with what is known about them: ratings, a ranking, or nothing yet.

    <source>/<any name>/a.png, b.png, …
                        prompt.txt      the prompt; without it, the folder's name is the prompt
                        ratings.json    optional: {"a.png": 4, "b.png": 2.5}; higher is better
                        ranking.json    optional: ["a.png", ["b.png", "c.png"]]; the best first, equals in a list

k judged pictures make C(k, 2) pairs, each of weight 1 / C(k, 2). Without ratings and ranking, all pairs of the pictures
go in to be labelled. With either, pictures that it does not name are left out.
"""

import json
import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from ...errors import BadInput
from ..folder import ENDINGS
from .compared import MANY, Compared, from_scores
from .layout import Group
from .rows import BadRow, Reference, Row, plain_text, real
from .tables import Unread

MAX_FILE = 1 << 20
"""Bytes of a prompt, of ratings or a ranking."""


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield a row for each folder with pictures in it."""
    if not source.is_dir():
        raise BadInput(f"{source}: no such folder; expected one folder of pictures for each prompt")
    number = 0
    for folder, inner, names in os.walk(source):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        pictures = sorted(name for name in names if Path(name).suffix.lower() in ENDINGS and name[0] != ".")
        if not pictures:
            continue
        number += 1
        place = str(Path(folder).relative_to(source))
        try:
            values = {"pictures": pictures, **_described(Path(folder))}
            yield (Row(f"{place}/" if place != "." else source.name, number, {"folder": place, **values}),)
        except BadRow as error:
            yield Unread(place, number, str(error))


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pairs of a folder's pictures."""
    (row,) = group
    prompt, folder = row.text("prompt"), row.text("folder")
    scores = _scores(row)
    names = [name for name in row.items("pictures") if not scores or name in scores]
    unknown = scores.keys() - set(names)
    if unknown:
        raise BadRow(f"no picture '{min(unknown)[:80]}' in the folder")
    pictures = [Reference(f"{folder}/{name}", row) for name in names]
    if scores:
        yield from from_scores(prompt, pictures, [[scores[name] for name in names]], [""])
        return
    if not 2 <= len(pictures) <= MANY:
        raise BadRow(f"{len(pictures)} pictures; expected 2 to {MANY}")
    for left, right in combinations(pictures, 2):
        yield Compared(prompt, left, right)


def _described(folder: Path) -> dict[str, object]:
    """Return the prompt, ratings and ranking that lie in a folder."""
    told = _file(folder / "prompt.txt")
    values: dict[str, object] = {"prompt": folder.name if told is None else told.strip("\r\n")}
    for name in ("ratings", "ranking"):
        text = _file(folder / f"{name}.json")
        if text is not None:
            try:
                values[name] = json.loads(text)
            except (ValueError, RecursionError):
                raise BadRow(f"{name}.json is not JSON") from None
    return values


def _file(path: Path) -> str | None:
    """Return the text of a small file that may be missing."""
    if path.is_symlink() or not path.is_file():
        return None
    if path.stat().st_size > MAX_FILE:
        raise BadRow(f"{path.name} has more than {MAX_FILE} bytes")
    return path.read_bytes().decode("utf-8-sig", "surrogateescape")


def _scores(row: Row) -> dict[str, float]:
    """Return how good each judged picture is: its rating, or minus its place in the ranking."""
    if row.has("ratings"):
        return {str(name): real(value, "ratings") for name, value in row.table("ratings").items()}
    scores: dict[str, float] = {}
    for place, names in enumerate(row.items("ranking") if row.has("ranking") else []):
        for name in names if isinstance(names, list) else [names]:
            if plain_text(name, "ranking") in scores:
                raise BadRow(f"'{name[:80]}' has two places in the ranking")
            scores[name] = -float(place)
    return scores
