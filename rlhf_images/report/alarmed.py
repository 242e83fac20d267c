"""The alarms: what came up, in which pictures, and what to do about it; or what was looked for in vain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ..alarms import CHECKS
from .content import Content, Raised
from .gallery import PIXELATED, address, size_of


@final
@dataclass(frozen=True)
class AlarmCard:
    """One alarm; ``pictures`` are ``(prompt, address of the base's, address of the one that raised it)``."""

    name: str
    step: int
    seen: str
    remedy: str
    pictures: Sequence[tuple[str, str, str]]


@final
@dataclass(frozen=True)
class Alarmed:
    """The view of the section."""

    cards: Sequence[AlarmCard]
    looked_for: str
    watched: bool
    """Whether there were two evaluations to compare."""
    command: str | None
    pixelated: bool
    """Whether pixels should stay squares."""


def alarmed(content: Content) -> Alarmed:
    """Return the alarms of ``content``, each with its pictures."""
    return Alarmed(
        cards=[_card(raised) for raised in content.alarms],
        looked_for=", ".join(CHECKS),
        watched=len(content.evaluations) > 1,
        command=content.alarm_command if content.alarms else None,
        pixelated=all(size_of(base)[0] <= PIXELATED for raised in content.alarms for _, base, _ in raised.pictures),
    )


def _card(raised: Raised) -> AlarmCard:
    pictures = [(prompt, address(base), address(now)) for prompt, base, now in raised.pictures]
    return AlarmCard(raised.name, raised.step, raised.seen, raised.remedy, pictures)
