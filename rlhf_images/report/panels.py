"""Curves over training and distributions of scores: small charts, each with the numbers behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from ..statistics import diversity_by_prompt, mean_estimate
from .charts import STACK, Line, Role, histogram, line_chart, stacked
from .content import REWARD, Content
from .verdict import COLLAPSED, DIVERSITY
from .words import NBSP, finite, number, percent

MAX_ROWS = 400
"""Steps drawn and listed; a longer run is thinned evenly and says so."""
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
        first, second = content.names
        note = f"{len(base)} pictures of {first}, {len(tuned)} of {second}"
        note += f", {failed} without a score." if failed else "."
        limit = content.highest_labelled if name == REWARD else None
        if limit is not None:
            note += " " + extrapolated(content)
        svg = histogram(f"hist{len(panels)}", label, base, tuned, limit)
        panels.append(Panel(name, note, svg, ("quantile", *content.names), rows))
    return panels


def extrapolated(content: Content) -> str:
    """Return in words how many pictures score above everything that a person ever labelled."""
    limit = content.highest_labelled
    scores = content.scores.get(REWARD)
    if limit is None or scores is None:
        return ""
    shares = []
    for name, column in zip(content.names, scores, strict=True):
        known = [value for value in map(finite, column) if value is not None]
        if known:
            shares.append(f"{percent(sum(value > limit for value in known) / len(known))} of {name}")
    return (
        f"Above the highest score of any labelled picture ({number(limit)}, dotted), where the reward model only"
        f" extrapolates: {', '.join(shares)}."
    )


QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def _followed(content: Content, judges: Sequence[str]) -> Panel | None:
    """Return the trained reward and the held-out judges over steps, each in its own spread over the base's pictures."""
    rows = [row for row in content.evaluations if finite(row.get("step")) is not None]
    units = {name: _unit(content, name) for name in (REWARD, *judges)}
    shown = [name for name, unit in units.items() if unit][: len(STACK)]
    if len(rows) < 2 or REWARD not in shown or len(shown) < 2:
        return None
    steps, lines, columns = _column(rows, "step"), [], []
    for name, role in zip(shown, STACK, strict=False):
        values = _column(rows, name)
        columns.append([(value - values[0]) / (units[name] or 1) for value in values])
        lines.append(Line(steps, columns[-1], role=role, dots=True))
    title = "Trained reward and held-out judges"
    note = (
        "Change since the base, in standard deviations of its pictures’ scores. A trained one that rises alone is"
        " being exploited."
    )
    table = [_row(*values) for values in zip(steps, *columns, strict=True)]
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
    rows, across, what = _having(content.metrics, "kl"), "kl", "KL to the reference"
    if not rows or not _having(rows, REWARD):
        rows, across, what = _having(content.evaluations, "distance"), "distance", "Distance to the base"
    rows = [row for row in rows if finite(row.get(REWARD)) is not None and finite(row.get(across)) is not None]
    if len(rows) < 2:
        return None
    thin, thinned = _thinned(rows)
    steps, values, rewards = (_column(thin, key) for key in ("step", across, REWARD))
    line = Line(values, rewards, dots=len(thin) <= 60)
    svg = line_chart("against", f"Reward against {what}", [line], across=what.lower().replace("kl", "KL"))
    note = "What each bit of reward cost in drift; a line that goes on to the right without rising buys nothing."
    table = [_row(*row) for row in zip(steps, values, rewards, strict=True)]
    return Panel(f"Reward against {what}", note + thinned, svg, ("step", across, REWARD), table)


def _time(content: Content) -> Panel | None:
    """Return where the time of each step went."""
    names = list(dict.fromkeys(key for row in content.metrics for key in row if key.startswith(SECONDS)))[: len(STACK)]
    rows = [row for row in content.metrics if all(finite(row.get(key)) is not None for key in ("step", *names))]
    if not names or not rows:
        return None
    thin, thinned = _thinned(rows)
    steps, parts = _column(thin, "step"), [_column(thin, name) for name in names]
    sums = [sum(_column(rows, name)) for name in names]
    whole = sum(sums) or 1.0
    legend = [
        (f"{name.removeprefix(SECONDS)} {percent(spent / whole)}", role)
        for name, spent, role in zip(names, sums, STACK, strict=False)
    ]
    svg = stacked("time", "Seconds of each part of a step", steps, parts)
    table = [_row(*values) for values in zip(steps, *parts, strict=True)]
    return Panel("Where the time went", "Seconds of a step." + thinned, svg, ("step", *names), table, legend)


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


def _evaluated(content: Content, key: str, title: str, note: str) -> Panel | None:
    return _curve(content.evaluations, key, f"eval-{title}", title, note, dots=True)


def _diversity(content: Content) -> Panel | None:
    """Return diversity over steps with the base's band and the line of collapse."""
    rows = _having(content.evaluations, DIVERSITY)
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
    rows, thinned = _thinned(_having(rows, key))
    if not rows:
        return None
    steps, values = _column(rows, "step"), _column(rows, key)
    svg = line_chart(_identifier(name), f"{title} over steps", [Line(steps, values, dots=dots)], limit, band)
    return Panel(
        title,
        note + thinned,
        svg,
        ("step", key.replace("_", " ")),
        [_row(*pair) for pair in zip(steps, values, strict=True)],
    )


def base_band(content: Content) -> tuple[float, float] | None:
    """Return the 95 % interval of the base's diversity over prompts, None where fewer than two prompts tell."""
    pictures, prompts = [pair.base for pair in content.compared], [pair.prompt for pair in content.compared]
    spreads = diversity_by_prompt(pictures, prompts)
    if len(spreads) < 2:
        return None
    estimate = mean_estimate(list(spreads.values()), list(spreads))
    return estimate.low, estimate.high


def _quoted(text: str) -> str:
    """Return ``text`` as a field of a CSV file."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


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
