"""The pictures: the same prompt and seed side by side, chosen by stated rules so that nobody can pick cherries."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn.functional import interpolate

from ..data import encode
from .content import Compared, Content
from .words import finite

MAX_PICTURES = 256
"""Pictures kept inside the file."""
CHANGES = 4
"""Pairs shown of each of best, median and worst."""
PER_PROMPT = 4
"""Pairs shown of every prompt, unselected, as far as the file's pictures allow."""
PIXELATED = 128
"""Pictures up to this many pixels wide are enlarged pixel by pixel, wider ones smoothly."""
MAX_SIDE = 512
"""A picture with a larger side is averaged down: twice the size at which it is shown."""
LOSSLESS = 64
"""Pictures with a side below this are kept as PNG, others as WebP of quality 80."""


@final
@dataclass(frozen=True)
class Card:
    """A pair, its pictures as ``data:`` addresses."""

    prompt: str
    seed: int
    base: str
    tuned: str
    utility_base: float | None
    utility_tuned: float | None


@final
@dataclass(frozen=True)
class Group:
    """Some pairs and how they were chosen."""

    title: str
    how: str
    cards: Sequence[Card]


@final
@dataclass(frozen=True)
class Gallery:
    """The view of the section; ``slot`` and ``slot_phone`` are the widths in CSS pixels at which a picture is shown."""

    judge: str
    groups: Sequence[Group]
    width: int
    height: int
    slot: int
    slot_phone: int

    @property
    def pixelated(self) -> bool:
        """Return whether pixels should stay squares."""
        return self.width <= PIXELATED


def gallery(content: Content) -> Gallery | None:
    """Return the pairs to show, or None if there are none."""
    if not content.compared:
        return None
    height, width = content.compared[0].base.shape[-2:]
    ranked = sorted(
        (pair for pair in content.compared if _change(pair) is not None), key=lambda pair: -(_change(pair) or 0)
    )
    size = min(CHANGES, math.ceil(len(ranked) / 3))
    middle = (len(ranked) - size) // 2
    by = f"the {len(ranked)} pairs, sorted by the change of ‘{content.judge}’ from base to tuned"
    groups = [
        Group("Best change", f"The first {size} of {by}.", _cards(ranked[:size])),
        Group("Median change", f"The middle {size} of {by}.", _cards(ranked[middle : middle + size])),
        Group("Worst change", f"The last {size} of {by}; the worst first.", _cards(ranked[-size:][::-1])),
    ]
    plain, how = _plain(content.compared, MAX_PICTURES // 2 - 3 * size)
    groups = [group for group in groups if group.cards]
    groups.append(Group("Every prompt, unselected", how, _cards(plain)))
    return Gallery(
        judge=content.judge,
        groups=groups,
        width=width,
        height=height,
        slot=240 if width > PIXELATED else max(1, round(112 / width)) * width,
        slot_phone=156 if width > PIXELATED else max(1, 80 // width) * width,
    )


def _change(pair: Compared) -> float | None:
    return finite(pair.utility_tuned - pair.utility_base)


def _plain(compared: Sequence[Compared], room: int) -> tuple[list[Compared], str]:
    """Return the first few pairs of every prompt, at most ``room`` in all, and the words that say so."""
    by_prompt: dict[str, list[Compared]] = {}
    for pair in compared:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    each = max(1, min(PER_PROMPT, room // len(by_prompt)))
    shown = list(by_prompt.values())[:room]
    which = "every prompt" if len(shown) == len(by_prompt) else f"the first {len(shown)} of {len(by_prompt)} prompts"
    how = "The first pair" if each == 1 else f"The first {each} pairs"
    return [pair for pairs in shown for pair in pairs[:each]], f"{how} of {which}, in the order they were drawn."


def _cards(pairs: Sequence[Compared]) -> list[Card]:
    return [
        Card(
            prompt=pair.prompt,
            seed=pair.seed,
            base=_address(pair.base),
            tuned=_address(pair.tuned),
            utility_base=finite(pair.utility_base),
            utility_tuned=finite(pair.utility_tuned),
        )
        for pair in pairs
    ]


def _address(image: Tensor) -> str:
    """Return picture ``(3, H, W)`` as a ``data:`` address."""
    height, width = image.shape[-2:]
    largest = max(height, width)
    if largest > MAX_SIDE:
        size = (max(1, height * MAX_SIDE // largest), max(1, width * MAX_SIDE // largest))
        image = interpolate(image[None].float(), size=size, mode="area")[0]
    small = min(height, width) < LOSSLESS
    data = encode(image, "PNG") if small else encode(image, "WEBP", quality=80)
    return f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(data).decode()}"
