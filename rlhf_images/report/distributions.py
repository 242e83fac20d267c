"""Distributions of each score, the base's pictures against the tuned ones'."""

import numpy as np

from .charts import histogram
from .content import REWARD, Content
from .panels import Panel
from .words import finite, number, percent

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


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
