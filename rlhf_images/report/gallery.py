"""The pictures: a prompt and seed by every checkpoint, chosen by stated rules so that nobody can pick cherries."""

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from PIL import Image

from ..data import FORMATS
from .content import Column, Content, Shot
from .words import finite

MAX_PICTURES = 256
"""Pictures kept inside the file; more of them lie in a folder beside it."""
MOST_PICTURES = 1024
"""Pictures of a page in all."""
CHANGES = 4
"""Rows shown of each of best, median and worst."""
PIXELATED = 128
"""Pictures up to this many pixels wide are enlarged pixel by pixel, wider ones smoothly."""
MAX_SIDE = 512
"""A picture with a larger side is shrunk: twice the size at which it is shown."""
QUALITY = 80
FILES = "report_pictures"
"""The folder beside a page that has too many pictures for one file."""


@final
@dataclass(frozen=True)
class Slot:
    """One picture: ``address`` is a ``data:`` address or a path beside the page."""

    address: str
    score: float | None


@final
@dataclass(frozen=True)
class Card:
    """A prompt and seed by every column; ``change`` is the score's from the first to the last column."""

    prompt: str
    seed: int
    slots: Sequence[Slot]
    change: float | None


@final
@dataclass(frozen=True)
class Group:
    """Some rows and how they were chosen."""

    title: str
    how: str
    cards: Sequence[Card]


@final
@dataclass(frozen=True)
class Gallery:
    """The view of the section; ``slot`` and ``slot_phone`` are the widths in CSS pixels at which a picture is shown."""

    judge: str
    columns: Sequence[Column]
    start: int
    """The column that is shown beside the first: the best, or the last where there is no best."""
    groups: Sequence[Group]
    width: int
    height: int
    slot: int
    slot_phone: int
    files: dict[str, bytes]
    """Name → picture, of those that lie beside the page."""

    @property
    def pixelated(self) -> bool:
        """Return whether pixels should stay squares."""
        return self.width <= PIXELATED

    @property
    def count(self) -> int:
        """Return the number of pictures."""
        return sum(len(card.slots) for group in self.groups for card in group.cards)


def gallery(content: Content) -> Gallery | None:
    """Return the rows to show, or None if there are none."""
    if not content.shots:
        return None
    columns = content.columns
    ranked = sorted((shot for shot in content.shots if _change(shot) is not None), key=lambda s: -(_change(s) or 0))
    size = min(CHANGES, math.ceil(len(ranked) / 3))
    middle = (len(ranked) - size) // 2
    ends = f"‘{columns[0].name}’ to ‘{columns[-1].name}’"
    by = f"the {len(ranked)} kept rows, sorted by the change of ‘{content.judge}’ from {ends}"
    chosen = [
        ("Best change", f"The first {size} of {by}.", ranked[:size]),
        ("Median change", f"The middle {size} of {by}.", ranked[middle : middle + size]),
        ("Worst change", f"The last {size} of {by}; the worst first.", ranked[-size:][::-1] if size else []),
    ]
    above = {id(shot) for _, _, shots in chosen for shot in shots}
    others, how = _others(content.shots, above, len(columns))
    chosen.append(("Every prompt, unselected", how, others))
    used = sum(len(shots) for _, _, shots in chosen) * len(columns)
    files: dict[str, bytes] | None = {} if used > MAX_PICTURES else None
    groups = [Group(title, how, [_card(shot, files) for shot in shots]) for title, how, shots in chosen if shots]
    width, height = size_of(content.shots[0].pictures[0])
    best = next((number for number, column in enumerate(columns) if "best" in column.note), len(columns) - 1)
    return Gallery(
        judge=content.judge,
        columns=columns,
        start=best,
        groups=groups,
        width=width,
        height=height,
        slot=256 if width > PIXELATED else max(1, round(112 / width)) * width,
        slot_phone=156 if width > PIXELATED else max(1, 80 // width) * width,
        files=files or {},
    )


def _change(shot: Shot) -> float | None:
    return finite(shot.scores[-1] - shot.scores[0])


def _others(shots: Sequence[Shot], above: set[int], columns: int) -> tuple[list[Shot], str]:
    """Return the first few rows of every prompt but those that are shown ``above``, and the words that say so."""
    prompts = list(dict.fromkeys(shot.prompt for shot in shots))
    inline, most = ((limit // columns - len(above)) // len(prompts) for limit in (MAX_PICTURES, MOST_PICTURES))
    each = inline if inline >= 1 else min(1, most)
    shown = [shot for shot in shots if shot.seed < each] if each else []
    seeds = len({shot.seed for shot in shown})
    if not each:  # more prompts than a page can show: the first of them
        shown = [shot for shot in shots if shot.seed == 0][: max(0, MOST_PICTURES // columns - len(above))]
        seeds = 1
    told = len({shot.prompt for shot in shown})
    which = "every kept prompt" if told == len(prompts) else f"the first {told} of {len(prompts)} kept prompts"
    how = f"{'The first seed' if seeds == 1 else f'The first {seeds} seeds'} of {which}, in the order they were drawn"
    rest = [shot for shot in shown if id(shot) not in above]
    return rest, how + ("." if len(rest) == len(shown) else "; those already shown above are not repeated.")


def _card(shot: Shot, files: dict[str, bytes] | None) -> Card:
    pictures = zip(shot.pictures, shot.scores, strict=True)
    slots = [Slot(address(picture, files), finite(score)) for picture, score in pictures]
    return Card(shot.prompt, shot.seed, slots, _change(shot))


def address(picture: bytes, files: dict[str, bytes] | None = None) -> str:
    """Return where ``picture`` is found: in the page itself, or in ``files``, to which it is added."""
    data, kind = _shrunk(picture)
    if files is None:
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    name = f"{hashlib.sha256(data).hexdigest()[:20]}.{kind}"
    files[name] = data
    return f"{FILES}/{name}"


def _shrunk(picture: bytes) -> tuple[bytes, str]:
    """Return an encoded picture with no side above `MAX_SIDE`, and its kind."""
    with Image.open(io.BytesIO(picture), formats=FORMATS) as opened:
        kind = str(opened.format).lower()
        largest = max(opened.size)
        if largest <= MAX_SIDE:
            return picture, kind
        size = (max(1, opened.width * MAX_SIDE // largest), max(1, opened.height * MAX_SIDE // largest))
        buffer = io.BytesIO()
        opened.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue(), "webp"


def size_of(picture: bytes) -> tuple[int, int]:
    """Return the width and height of an encoded picture."""
    with Image.open(io.BytesIO(picture), formats=FORMATS) as opened:
        return opened.size
