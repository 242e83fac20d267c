"""Curves over training and distributions of scores: small charts, each with the numbers behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from markupsafe import Markup

from .charts import Line, histogram, line_chart
from .content import REWARD, Content
from .verdict import COLLAPSED, DIVERSITY
from .words import finite, percent

MAX_ROWS = 400
"""Steps drawn and listed; a longer run is thinned evenly and says so."""
DISTANCE = "distance"
KNOWN = {
    "kl": ("KL to the reference", "How far the generator has drifted; a sudden slope is a runaway."),
    "loss": ("Loss", "Of the policy; its level means little, a jump or a NaN means much."),
    "grad_norm": ("Gradient norm", "Before clipping."),
    "frac_reward_zero_std": ("Groups without signal", "Share of groups whose rewards are all alike."),
    "images_per_second": ("Pictures per second", "Speed of the training loop."),
}
"""Titles and notes of the loop's own metrics, in the order they are shown; others follow under their own names."""
BAND = ("reward_p10", "reward_p90", "reward_std")


@final
@dataclass(frozen=True)
class Panel:
    """One chart and the table behind it."""

    title: str
    note: str
    svg: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[float | None]]


def curves(content: Content) -> list[Panel]:
    """Return the charts over steps: reward, held-out judges, diversity and drift, then the loop's metrics."""
    judges = list(dict.fromkeys(key for row in content.evaluations for key in row))
    judges = [name for name in judges if name not in ("step", REWARD, DIVERSITY, DISTANCE)]
    judges.sort(key=lambda name: name != content.judge)
    others = dict.fromkeys([*KNOWN, *(key for row in content.metrics for key in row)])
    panels = [_reward(content)]
    panels += [
        _evaluated(content, name, f"Held-out: {name}", "Fixed prompts and seeds, not trained on.") for name in judges
    ]
    panels.append(_diversity(content))
    panels.append(
        _evaluated(content, DISTANCE, "Distance to the base", "Between pictures of the same prompt and seed.")
    )
    for key in others:
        if key not in ("step", REWARD, *BAND):
            title, note = KNOWN.get(key, (key.replace("_", " ").capitalize(), ""))
            panels.append(_metric(content, key, title, note))
    return [panel for panel in panels if panel is not None]


def distributions(content: Content) -> list[Panel]:
    """Return one histogram per score, base against tuned."""
    panels: list[Panel] = []
    for name, columns in content.scores.items():
        base, tuned = (np.array([value for value in map(finite, column) if value is not None]) for column in columns)
        if len(base) + len(tuned) == 0:
            continue
        rows = [
            (float(share), *(float(np.quantile(v, share)) if len(v) else None for v in (base, tuned)))
            for share in QUANTILES
        ]
        label = f"Histogram of {name}, base and tuned"
        failed = len(columns[0]) + len(columns[1]) - len(base) - len(tuned)
        note = f"{len(base)} base and {len(tuned)} tuned pictures" + (f", {failed} without a score" if failed else "")
        svg = histogram(f"hist{len(panels)}", label, base, tuned)
        panels.append(Panel(name, note, svg, ("quantile", "base", "tuned"), rows))
    return panels


QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def _reward(content: Content) -> Panel | None:
    rows = _having(content.metrics, REWARD)
    evaluated = _having(content.evaluations, REWARD)
    if not rows and not evaluated:
        return None
    thin, thinned = _thinned(rows)
    steps, mean = _column(thin, "step"), _column(thin, REWARD)
    deviation, p10, p90 = (_column(thin, key) for key in ("reward_std", "reward_p10", "reward_p90"))
    quantiles = not all(map(math.isnan, p10 + p90))
    low = p10 if quantiles else [m - d for m, d in zip(mean, deviation, strict=True)]
    high = p90 if quantiles else [m + d for m, d in zip(mean, deviation, strict=True)]
    lines = [Line(steps, mean, low=low, high=high)]
    if evaluated:
        lines.append(Line(_column(evaluated, "step"), _column(evaluated, REWARD), role="ink", dots=True))
    band = "P10–P90" if quantiles else "one standard deviation"
    note = (
        f"Mean of each step; band: {band}." + (" Dots: on the fixed evaluation prompts." if evaluated else "") + thinned
    )
    table = [_row(*values) for values in zip(steps, mean, low, high, strict=True)]
    svg = line_chart("reward", "Training reward over steps", lines)
    return Panel("Training reward", note, svg, ("step", "mean", "low", "high"), table)


def _evaluated(content: Content, key: str, title: str, note: str, limit: float | None = None) -> Panel | None:
    return _curve(content.evaluations, key, f"eval-{title}", title, note, dots=True, limit=limit)


def _diversity(content: Content) -> Panel | None:
    rows = _having(content.evaluations, DIVERSITY)
    base = finite(content.summary.get(f"{DIVERSITY}_base")) or (finite(rows[0][DIVERSITY]) if rows else None)
    note = f"Within a prompt; the dashed line is {percent(COLLAPSED)} of the base’s."
    return _evaluated(content, DIVERSITY, "Diversity", note, None if base is None else COLLAPSED * base)


def _metric(content: Content, key: str, title: str, note: str) -> Panel | None:
    return _curve(content.metrics, key, f"metric-{key}", title, note)


def _curve(
    rows: Sequence[dict[str, float]],
    key: str,
    name: str,
    title: str,
    note: str,
    *,
    dots: bool = False,
    limit: float | None = None,
) -> Panel | None:
    rows, thinned = _thinned(_having(rows, key))
    if not rows:
        return None
    steps, values = _column(rows, "step"), _column(rows, key)
    svg = line_chart(_identifier(name), f"{title} over steps", [Line(steps, values, dots=dots)], limit)
    return Panel(
        title,
        note + thinned,
        svg,
        ("step", key.replace("_", " ")),
        [_row(*pair) for pair in zip(steps, values, strict=True)],
    )


def _identifier(name: str) -> str:
    """Return ``name`` as letters and digits fit for an id; different names give different ids."""
    return "c" + name.encode().hex()


def _having(rows: Sequence[dict[str, float]], key: str) -> list[dict[str, float]]:
    """Return the rows that have a step and ``key``, or none if ``key`` is never finite."""
    found = [row for row in rows if key in row and finite(row.get("step")) is not None]
    return found if any(finite(row[key]) is not None for row in found) else []


def _thinned(rows: list[dict[str, float]]) -> tuple[list[dict[str, float]], str]:
    if len(rows) <= MAX_ROWS:
        return rows, ""
    picked = np.linspace(0, len(rows) - 1, MAX_ROWS).round().astype(int)
    return [rows[i] for i in picked], f" {MAX_ROWS} of {len(rows)} steps, evenly chosen."


def _column(rows: Sequence[dict[str, float]], key: str) -> list[float]:
    values = (finite(row.get(key)) for row in rows)
    return [math.nan if value is None else value for value in values]


def _row(*values: float) -> tuple[float | None, ...]:
    return tuple(map(finite, values))
