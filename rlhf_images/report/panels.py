"""Small charts, each with the numbers behind it, and how rows of numbers become those."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from .charts import Role
from .words import finite

MAX_ROWS = 400
"""Steps drawn and listed; a longer run is thinned evenly and says so."""


@final
@dataclass(frozen=True)
class Panel:
    """One chart and the table behind it."""

    title: str
    note: str
    svg: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[float | None]]
    legend: Sequence[tuple[str, Role]] = ()
    """What is drawn in which colour, where a chart has several lines."""

    @property
    def csv(self) -> str:
        """Return the table as the address of a CSV file to download."""
        told = [",".join(_quoted(column) for column in self.columns)]
        told += [",".join("" if value is None else repr(float(value)) for value in row) for row in self.rows]
        return "data:text/csv;charset=utf-8," + quote("\r\n".join(told) + "\r\n")

    @property
    def file(self) -> str:
        """Return the name of that file."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.title.lower()) + ".csv"


def _quoted(text: str) -> str:
    """Return ``text`` as a field of a CSV file."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def identifier(name: str) -> str:
    """Return ``name`` as letters and digits fit for an id; different names give different ids."""
    return "c" + name.encode().hex()


def having(rows: Sequence[dict[str, float]], key: str) -> list[dict[str, float]]:
    """Return the rows that have a step and ``key``, or none if ``key`` is never finite."""
    found = [row for row in rows if key in row and finite(row.get("step")) is not None]
    return found if any(finite(row[key]) is not None for row in found) else []


def thinned(rows: list[dict[str, float]]) -> tuple[list[dict[str, float]], str]:
    """Return at most `MAX_ROWS` of ``rows``, and what to say of those left out."""
    if len(rows) <= MAX_ROWS:
        return rows, ""
    picked = np.linspace(0, len(rows) - 1, MAX_ROWS).round().astype(int)
    return [rows[i] for i in picked], f" {MAX_ROWS} of {rows[-1]['step']:.0f} steps, evenly chosen."


def column(rows: Sequence[dict[str, float]], key: str) -> list[float]:
    """Return the numbers under ``key``; NaN where there is none."""
    values = (finite(row.get(key)) for row in rows)
    return [math.nan if value is None else value for value in values]


def cells(*values: float) -> tuple[float | None, ...]:
    """Return a row of a `Panel`."""
    return tuple(map(finite, values))
