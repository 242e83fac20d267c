"""Make the README's picture and table from a finished ``make demo``: ``python benchmarks/readme.py``."""

import json
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
RUN = ROOT / "runs" / "demo"
COLUMNS, SIDE, SCALE, GAP = 8, 16, 3, 24


def picture() -> Image.Image:
    """Return the first seeds of every prompt, base on the left, tuned on the right, enlarged and set apart."""
    pitch = SIDE * SCALE + 4
    whole = Image.new("RGB", (2 * COLUMNS * pitch + GAP, 10 * pitch), "#808080")
    for number, name in enumerate(("base", "tuned")):
        grid = Image.open(RUN / f"{name}.png")
        for row in range(10):
            for column in range(COLUMNS):
                left, top = column * SIDE, row * SIDE
                tile = grid.crop((left, top, left + SIDE, top + SIDE)).resize(
                    (SIDE * SCALE,) * 2, Image.Resampling.NEAREST
                )
                whole.paste(tile, (number * (COLUMNS * pitch + GAP) + column * pitch + 2, row * pitch + 2))
    return whole


def table() -> str:
    """Return the README's table in Markdown."""
    summary = json.loads((RUN / "summary.json").read_text())
    low, high = summary["win_rate_ci"]
    model = summary["reward_model"]
    accuracy = model["held_out_accuracy"]
    rows = [
        (
            f"tuned preferred to base by the noiseless annotator, {summary['win_rate_pairs']} pairs of held-out seeds",
            f"**{summary['win_rate']:.1%}** (95 % interval {low:.1%} to {high:.1%})",
        ),
        *(
            (f"{what}, base → tuned", f"{summary[f'{name}_base']:.3f} → {summary[f'{name}_tuned']:.3f}")
            for name, what in (
                ("legibility", "legibility: read correctly by the judge"),
                ("utility", "utility: legible and bold, 0 to 2"),
                ("diversity", "diversity within a prompt: 1 − correlation"),
                ("reward", "the trained reward, log-odds"),
            )
        ),
        (
            f"reward model's accuracy on {model['pairs_held_out']} held-out pairs, learnt from {model['pairs_train']}",
            f"{accuracy:.1%} of at most {model['ceiling']:.0%}",
        ),
        (
            "seconds: " + ", ".join(name for name in summary["seconds"] if name != "total"),
            ", ".join(f"{value:.0f}" for name, value in summary["seconds"].items() if name != "total")
            + f": {summary['seconds']['total']:.0f} in all",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


if __name__ == "__main__":
    picture().save(ROOT / "docs" / "demo.png", optimize=True)
    print(table())
