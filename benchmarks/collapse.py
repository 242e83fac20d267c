"""Draw a run that went too far: the same prompts and noise after more and more steps, and what was told when.

    python benchmarks/collapse.py RUN docs/collapse.png [--rows 4]

Above, the first pictures of every other prompt at evenly chosen evaluations; below, the trained reward and the held-out
judges, each as its change since the base in standard deviations of its scores of the base's pictures. The line is the
checkpoint in ``best/``, the shade begins with the first alarm.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rlhf_images import recorded
from rlhf_images.alarms import REWARD, alarms
from rlhf_images.best import kept_best
from rlhf_images.recorded import Recorded

COLUMNS = 9
INK, COLOURS = "#444444", ("#c2410c", "#1d4ed8", "#0f766e", "#7c3aed")


def draw(series: list[Recorded], best: int | None, rows: int) -> Figure:
    """Return the picture of the evaluations ``series`` of a run."""
    figure = Figure(figsize=(9, 2.4 + 0.9 * rows), dpi=100)
    shown = [series[place] for place in np.linspace(0, len(series) - 1, min(COLUMNS, len(series))).round().astype(int)]
    grid = figure.add_gridspec(rows + 1, len(shown), height_ratios=[1] * rows + [2.4], hspace=0.06, wspace=0.06)
    for row in range(rows):
        for column, seen in enumerate(shown):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(seen.image(2 * row).permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                name = "base" if not seen.step else f"step {seen.step}" + (" · best" if seen.step == best else "")
                axes.set_title(name, fontsize=8, color=INK, pad=4)
    axes = figure.add_subplot(grid[rows, :])
    steps = [seen.step or 0 for seen in series]
    for name, colour in zip(series[0].scores, COLOURS, strict=False):
        unit = np.nanstd(series[0].scores[name])
        values = [(np.nanmean(seen.scores[name]) - np.nanmean(series[0].scores[name])) / unit for seen in series]
        label = f"{name} (trained on)" if name == REWARD else name
        axes.plot(steps, values, color=colour, marker="o", markersize=3, linewidth=1.5, label=label)
    if best is not None:
        axes.axvline(best, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"best/: step {best}")
    if raised := alarms(series):
        told = f"since the first alarm: step {raised[0].step}"
        axes.axvspan(raised[0].step, steps[-1], color=COLOURS[0], alpha=0.08, label=told)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.set_ylabel("change, in sd", fontsize=8, color=INK)
    axes.tick_params(labelsize=8, labelcolor=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "ncol": 5}
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, **below)
    axes.margins(x=0.01)
    return figure


def main() -> None:
    """Write the picture."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--rows", type=int, default=4)
    chosen = options.parse_args()
    series = recorded.of_run(chosen.run)
    figure = draw(series, kept_best(chosen.run).get("step"), chosen.rows)
    figure.savefig(chosen.out, bbox_inches="tight", pad_inches=0.08, facecolor="white")


if __name__ == "__main__":
    main()
