"""Curves over training: the reward, those that it was not trained on, drift, and the loop's own metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from .charts import STACK, Line, line_chart, stacked
from .content import REWARD, Content
from .panels import Panel, cells, column, having, identifier, thinned
from .scores import COLLAPSED, DIVERSITY, base_band
from .words import NBSP, finite, percent

DRIFT = {
    "distance": (
        "Distance to the base, in pixels",
        "1 − the correlation of two pictures of the same prompt and seed: 0 is the same, about 1 unrelated.",
    ),
    "feature_distance": (
        "Distance to the base, in features",
        "1 − the cosine of what a judge’s image tower sees in two pictures of the same prompt and seed.",
    ),
}
SECONDS = "seconds_"
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
class Curves:
    """The view of the section; ``constant`` are the metrics that never changed, which need no chart."""

    panels: Sequence[Panel]
    constant: Sequence[tuple[str, float]]


def curves(content: Content) -> Curves:
    """Return the charts over steps: reward, held-out judges, diversity and drift, then the loop's metrics."""
    judges = list(dict.fromkeys(key for row in content.evaluations for key in row))
    judges = [name for name in judges if name not in ("step", REWARD, DIVERSITY, *DRIFT)]
    judges.sort(key=lambda name: name != content.judge)
    others = dict.fromkeys([*KNOWN, *(key for row in content.metrics for key in row)])
    constant: list[tuple[str, float]] = []
    panels = [_followed(content, judges), _reward(content), _against_drift(content)]
    panels += [
        _evaluated(content, name, f"Held-out: {name}", "Fixed prompts and seeds, not trained on.") for name in judges
    ]
    panels.append(_diversity(content))
    panels += [_evaluated(content, key, title, note) for key, (title, note) in DRIFT.items()]
    panels.append(_time(content))
    for key in others:
        if key not in ("step", REWARD, *BAND) and not key.startswith(SECONDS):
            title, note = KNOWN.get(key, (key.replace("_", " ").capitalize(), ""))
            values = {finite(row.get(key)) for row in content.metrics if key in row}
            if len(values) == 1 and (only := next(iter(values))) is not None and len(content.metrics) > 1:
                constant.append((title, only))
            else:
                panels.append(_metric(content, key, title, note))
    return Curves([panel for panel in panels if panel is not None], constant)


def _followed(content: Content, judges: Sequence[str]) -> Panel | None:
    """Return the trained reward and the held-out judges over steps, each in its own spread over the base's pictures."""
    rows = [row for row in content.evaluations if finite(row.get("step")) is not None]
    units = {name: _unit(content, name) for name in (REWARD, *judges)}
    shown = [name for name, unit in units.items() if unit][: len(STACK)]
    if len(rows) < 2 or REWARD not in shown or len(shown) < 2:
        return None
    steps, lines, columns = column(rows, "step"), [], []
    for name, role in zip(shown, STACK, strict=False):
        values = column(rows, name)
        columns.append([(value - values[0]) / (units[name] or 1) for value in values])
        lines.append(Line(steps, columns[-1], role=role, dots=True))
    title = "Trained reward and held-out judges"
    note = (
        "Change since the base, in standard deviations of its pictures’ scores. A trained one that rises alone is"
        " being exploited."
    )
    table = [cells(*values) for values in zip(steps, *columns, strict=True)]
    legend = [
        (f"{name} (trained on)" if name == REWARD else name, role) for name, role in zip(shown, STACK, strict=False)
    ]
    return Panel(title, note, line_chart("followed", title, lines, limit=0.0), ("step", *shown), table, legend)


def _unit(content: Content, name: str) -> float | None:
    known = [value for value in map(finite, content.scores.get(name, ((), ()))[0]) if value is not None]
    spread = float(np.std(known)) if len(known) > 1 else 0.0
    return spread if spread > 1e-9 else None


def _against_drift(content: Content) -> Panel | None:
    """Return the training reward against the KL that was paid for it, or where none is known against the distance."""
    rows, across, what = having(content.metrics, "kl"), "kl", "KL to the reference"
    if not rows or not having(rows, REWARD):
        rows, across, what = having(content.evaluations, "distance"), "distance", "Distance to the base"
    rows = [row for row in rows if finite(row.get(REWARD)) is not None and finite(row.get(across)) is not None]
    if len(rows) < 2:
        return None
    thin, told = thinned(rows)
    steps, values, rewards = (column(thin, key) for key in ("step", across, REWARD))
    line = Line(values, rewards, dots=len(thin) <= 60)
    svg = line_chart("against", f"Reward against {what}", [line], across=what.lower().replace("kl", "KL"))
    note = "What each bit of reward cost in drift; a line that goes on to the right without rising buys nothing."
    table = [cells(*row) for row in zip(steps, values, rewards, strict=True)]
    return Panel(f"Reward against {what}", note + told, svg, ("step", across, REWARD), table)


def _time(content: Content) -> Panel | None:
    """Return where the time of each step went."""
    names = list(dict.fromkeys(key for row in content.metrics for key in row if key.startswith(SECONDS)))[: len(STACK)]
    rows = [row for row in content.metrics if all(finite(row.get(key)) is not None for key in ("step", *names))]
    if not names or not rows:
        return None
    thin, told = thinned(rows)
    steps, parts = column(thin, "step"), [column(thin, name) for name in names]
    sums = [sum(column(rows, name)) for name in names]
    whole = sum(sums) or 1.0
    legend = [
        (f"{name.removeprefix(SECONDS)} {percent(spent / whole)}", role)
        for name, spent, role in zip(names, sums, STACK, strict=False)
    ]
    svg = stacked("time", "Seconds of each part of a step", steps, parts)
    table = [cells(*values) for values in zip(steps, *parts, strict=True)]
    return Panel("Where the time went", "Seconds of a step." + told, svg, ("step", *names), table, legend)


def _reward(content: Content) -> Panel | None:
    rows = having(content.metrics, REWARD)
    evaluated = having(content.evaluations, REWARD)
    if not rows and not evaluated:
        return None
    thin, told = thinned(rows)
    steps, mean = column(thin, "step"), column(thin, REWARD)
    deviation, p10, p90 = (column(thin, key) for key in ("reward_std", "reward_p10", "reward_p90"))
    quantiles = not all(map(math.isnan, p10 + p90))
    low = p10 if quantiles else [m - d for m, d in zip(mean, deviation, strict=True)]
    high = p90 if quantiles else [m + d for m, d in zip(mean, deviation, strict=True)]
    lines = [Line(steps, mean, low=low, high=high)]
    if evaluated:
        lines.append(Line(column(evaluated, "step"), column(evaluated, REWARD), role="ink", dots=True))
    band = "P10–P90" if quantiles else "one standard deviation"
    note = f"Mean of each step; band: {band}." + (" Dots: on the fixed evaluation prompts." if evaluated else "") + told
    table = [cells(*values) for values in zip(steps, mean, low, high, strict=True)]
    svg = line_chart("reward", "Training reward over steps", lines)
    return Panel("Training reward", note, svg, ("step", "mean", "low", "high"), table)


def _evaluated(content: Content, key: str, title: str, note: str) -> Panel | None:
    return _curve(content.evaluations, key, f"eval-{title}", title, note, dots=True)


def _diversity(content: Content) -> Panel | None:
    """Return diversity over steps with the base's band and the line of collapse."""
    rows = having(content.evaluations, DIVERSITY)
    base = finite(content.summary.get(f"{DIVERSITY}_{content.names[0]}")) or (
        finite(rows[0][DIVERSITY]) if rows else None
    )
    note = f"Within a prompt; dashed: {percent(COLLAPSED)} of the base’s."
    band = base_band(content)
    if band is not None:
        note += f" Grey: the base’s own 95{NBSP}% interval over prompts."
    limit = None if base is None else COLLAPSED * base
    return _curve(
        content.evaluations, DIVERSITY, "eval-Diversity", "Diversity", note, dots=True, limit=limit, band=band
    )


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
    band: tuple[float, float] | None = None,
) -> Panel | None:
    rows, told = thinned(having(rows, key))
    if not rows:
        return None
    steps, values = column(rows, "step"), column(rows, key)
    svg = line_chart(identifier(name), f"{title} over steps", [Line(steps, values, dots=dots)], limit, band)
    return Panel(
        title,
        note + told,
        svg,
        ("step", key.replace("_", " ")),
        [cells(*pair) for pair in zip(steps, values, strict=True)],
    )
