"""A row as some other program wrote it: read with suspicion, and refused by a reason and a number, never by a crash."""

import math
import reprlib
from dataclasses import dataclass
from typing import Any, final

from ...prompts import MAX_CHARACTERS
from ..pairs import Picture

MAX_ITEMS = 1000
"""Pictures or votes in one row, at most."""


class BadRow(Exception):
    """A row that cannot be used; the message is the reason, for a person. The other rows go in."""


@final
@dataclass(frozen=True)
class Reference:
    """A picture as a row names it: bytes, ``{"bytes": …, "path": …}``, a path, or a URL (which is never fetched)."""

    value: Any
    row: "Row"
    model: str = ""
    """What drew it, where the layout says so."""
    known: Picture | None = None
    """All that is known about it, where the layout is our own."""


@final
@dataclass(frozen=True)
class Row:
    """One row of a file, its values as they came. What reads a column raises `BadRow` where it is not as expected."""

    file: str
    number: int
    """Of the row in its file, from 1 on; in a file of lines, of the line."""
    values: dict[str, Any]

    @property
    def place(self) -> str:
        """Return where the row stands, as ``train.json row 17``."""
        return f"{self.file} row {self.number}"

    def has(self, name: str) -> bool:
        """Return whether the row has a value in column ``name``."""
        return self.values.get(name) is not None

    def value(self, *names: str) -> Any:
        """Return the value of the first of the columns ``names`` that has one."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        raise BadRow(f"no '{names[0]}'" + (f" (or {', '.join(names[1:])})" if names[1:] else ""))

    def text(self, *names: str) -> str:
        """Return a text of at most `MAX_CHARACTERS` characters that UTF-8 can hold."""
        return plain_text(self.value(*names), names[0])

    def text_or(self, default: str, *names: str) -> str:
        """Return a text, or ``default`` where no column has one. Whole numbers count as texts: ids are often either."""
        if not any(self.has(name) for name in names):
            return default
        value = self.value(*names)
        return str(value) if isinstance(value, int) else plain_text(value, names[0])

    def real(self, *names: str) -> float:
        """Return a finite number; a text that spells one will do, as in CSV."""
        return real(self.value(*names), names[0])

    def items(self, *names: str) -> list[Any]:
        """Return a list of at most `MAX_ITEMS`."""
        return items(self.value(*names), names[0])

    def table(self, *names: str) -> dict[str, Any]:
        """Return a value that is itself a row of named values."""
        value = self.value(*names)
        if not isinstance(value, dict):
            raise BadRow(f"'{names[0]}' is {_shown(value)}, not an object")
        return value

    def picture(self, *names: str, model: str = "") -> Reference:
        """Return what names a picture. It is read later, and only if the rest of the row is good."""
        return Reference(self.value(*names), self, model)


def plain_text(value: object, name: str) -> str:
    """Return ``value`` if it is a text of reasonable length that UTF-8 can hold; ``name`` is for the reason."""
    if not isinstance(value, str):
        raise BadRow(f"'{name}' is {_shown(value)}, not text")
    if len(value) > MAX_CHARACTERS:
        raise BadRow(f"'{name}' has {len(value)} characters, the limit is {MAX_CHARACTERS}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow(f"'{name}' is not valid Unicode text")
    return value


def real(value: object, name: str) -> float:
    """Return ``value`` as a finite number; ``name`` is for the reason."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"'{name}' is {_shown(value)}, not a finite number")
    return number


def items(value: object, name: str) -> list[Any]:
    """Return ``value`` if it is a list of at most `MAX_ITEMS`; ``name`` is for the reason."""
    if not isinstance(value, list):
        raise BadRow(f"'{name}' is {_shown(value)}, not a list")
    if len(value) > MAX_ITEMS:
        raise BadRow(f"'{name}' has {len(value)} items, the limit is {MAX_ITEMS}")
    return value


def _shown(value: object) -> str:
    """Return a short, printable form of any value."""
    return "missing" if value is None else reprlib.repr(value).encode("unicode_escape").decode()[:80]
