"""Charts as inline SVG that takes its colours from the page, so that light, dark and print all work.

No text of a user's is ever drawn: titles and legends are the page's. The same data gives the same bytes.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Role = Literal["ink", "grid", "base", "tuned", "limit", "third", "fourth"]
COLOURS: dict[Role, str] = {
    "ink": "#010101",
    "grid": "#020202",
    "base": "#030303",
    "tuned": "#040404",
    "limit": "#050505",
    "third": "#060606",
    "fourth": "#070707",
}
"""What matplotlib draws with; each is replaced by the page's CSS variable of the same name."""
STACK: tuple[Role, ...] = ("tuned", "limit", "third", "fourth", "base")
"""Colours of what is told apart in one chart, in order."""
SIZE = (3.9, 2.1)
"""Inches of 72 CSS pixels; the page scales it to its column."""
BINS = 24


@final
@dataclass(frozen=True)
class Line:
    """``values`` over ``steps``; NaN is a gap. ``low`` and ``high`` bound a band, if given."""

    steps: Sequence[float]
    values: Sequence[float]
    role: Role = "tuned"
    dots: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def line_chart(
    name: str,
    label: str,
    lines: Sequence[Line],
    limit: float | None = None,
    band: tuple[float, float] | None = None,
    across: str = "step",
) -> Markup:
    """Return ``lines`` with a dashed ``limit`` and a grey ``band`` all along, over steps or what else goes ``across``.

    ``name`` is unique on the page, ``label`` is read aloud.
    """
    figure, axes = _axes()
    if band is not None:
        axes.axhspan(*band, color=COLOURS["base"], alpha=0.18, linewidth=0)
    for line in lines:
        colour = COLOURS[line.role]
        if line.low is not None and line.high is not None:
            axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        style = {"marker": "o", "markersize": 4} if line.dots else {}
        axes.plot(line.steps, line.values, color=colour, linewidth=1.6, **style)  # type: ignore[arg-type]
    if limit is not None:
        axes.axhline(limit, color=COLOURS["limit"], linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlabel(across)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=across == "step"))
    return _svg(figure, name, label)


def stacked(name: str, label: str, steps: Sequence[float], parts: Sequence[Sequence[float]]) -> Markup:
    """Return ``parts`` over steps, one on the other, in the colours of `STACK`."""
    figure, axes = _axes()
    axes.stackplot(steps, *parts, colors=[COLOURS[role] for role in STACK[: len(parts)]], alpha=0.75, linewidth=0)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return _svg(figure, name, label)


def histogram(
    name: str, label: str, base: NDArray[np.float64], tuned: NDArray[np.float64], limit: float | None = None
) -> Markup:
    """Return both distributions over the same bins, as shares, with a dashed line at each mean. Both must be finite.

    A dotted line is drawn at ``limit``.
    """
    figure, axes = _axes()
    edges: list[float] = np.histogram_bin_edges(np.concatenate([base, tuned]), BINS).tolist()
    for values, role in ((base, "base"), (tuned, "tuned")):
        if len(values):
            colour = COLOURS["base" if role == "base" else "tuned"]
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, edges, weights=weights, color=colour, alpha=0.25, histtype="stepfilled")
            axes.hist(values, edges, weights=weights, color=colour, linewidth=1.4, histtype="step")
            axes.axvline(float(values.mean()), color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    if limit is not None:
        axes.axvline(limit, color=COLOURS["limit"], linewidth=1.6, linestyle=(0, (1, 1.5)))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    return _svg(figure, name, label)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)
    axes = figure.add_axes((0.145, 0.23, 0.84, 0.7))  # fixed: matplotlib's own layouts draw everything twice
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["grid"])
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=COLOURS["grid"], labelcolor=COLOURS["ink"], labelsize=8.5, length=0, pad=5)
    axes.tick_params(axis="x", pad=7)
    axes.xaxis.label.set(color=COLOURS["ink"], fontsize=8.5)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}".replace("-", "−"))
    axes.margins(x=0.02)
    return figure, axes


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """Return ``figure`` as an SVG element without addresses, metadata, global styles or ids of its own."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{escape(label)}"', svg, count=1)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return Markup(svg)
