"""Numbers in words. A missing, NaN or infinite number is a dash everywhere, never an invented zero."""

import math
import numbers
from typing import Any

MISSING = "–"
NBSP = "\u00a0"


def finite(value: Any) -> float | None:
    """Return ``value`` as a float, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value) if math.isfinite(value) else None


def places(*values: float | None) -> int:
    """Return how many decimals show three digits of the largest of ``values``."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 2


def number(value: Any, decimals: int | None = None) -> str:
    """Return ``value`` with three digits, or with ``decimals``."""
    value = finite(value)
    if value is None:
        return MISSING
    if decimals is None and value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    decimals = places(value) if decimals is None else decimals
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")  # adding 0 turns −0 into 0


def signed(value: Any, decimals: int | None = None) -> str:
    """Return ``value`` with its sign, also a plus."""
    text = number(value, decimals)
    positive = (finite(value) or 0) > 0 and any(digit in text for digit in "123456789")
    return f"+{text}" if positive else text


def percent(value: Any) -> str:
    """Return a share in [0, 1] as whole per cent."""
    value = finite(value)
    return MISSING if value is None else f"{100 * value:.0f}{NBSP}%"


def percent_range(low: Any, high: Any) -> str:
    """Return an interval of shares such as ``81–92``, in per cent."""
    if finite(low) is None or finite(high) is None:
        return MISSING
    return f"{100 * low:.0f}–{100 * high:.0f}"


def duration(seconds: Any) -> str:
    """Return seconds as ``1 h 2 min``, ``2 min 31 s`` or ``4.2 s``."""
    seconds = finite(seconds)
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def facts(tree: Any, name: str = "") -> list[tuple[str, str]]:
    """Return a tree of plain values as flat ``(dotted name, text)`` rows, names in words."""
    if isinstance(tree, dict):
        return [row for key, value in tree.items() for row in facts(value, f"{name}.{key}" if name else str(key))]
    if isinstance(tree, (list, tuple)):
        text = ", ".join(text for value in tree for _, text in facts(value)) or MISSING
    elif tree is None or isinstance(tree, float):
        text = number(tree)
    else:
        text = str(tree)
    return [(name.replace("_", " ").replace(".", " · "), text)]
