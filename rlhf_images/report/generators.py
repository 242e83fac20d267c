"""All generators of a comparison in one table, where there are more than two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from .content import Content
from .words import MISSING, finite, number, percent, percent_range

DRIFT = {"distance": "Distance, pixels", "feature_distance": "Distance, features"}


@final
@dataclass(frozen=True)
class Generators:
    """The view of the section: a row each, its cells in the order of ``columns``."""

    base: str
    judge: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def generators(content: Content) -> Generators | None:
    """Return the table, or None where two were compared: the verdict says it all then."""
    found = content.generators
    if not found:
        return None
    told = list(found.values())
    scores = [name for name in dict.fromkeys([*content.scores, "diversity"]) if any(name in row for row in told)]
    drift = [key for key in DRIFT if any(finite(row.get(key)) is not None for row in told)]
    columns = [*(name.capitalize() if name == "diversity" else name for name in scores), *(DRIFT[key] for key in drift)]
    rows = [
        (name, [*(number(row.get(key)) for key in (*scores, *drift)), _preferred(row)]) for name, row in found.items()
    ]
    return Generators(next(iter(found)), content.judge, [*columns, "Preferred"], rows)


def _preferred(row: dict[str, Any]) -> str:
    rate, interval = finite(row.get("win_rate")), row.get("win_rate_ci") or (None, None)
    return MISSING if rate is None else f"{percent(rate)} ({percent_range(*interval)})"
