"""Make the README's picture and table from a finished ``make demo``: ``python benchmarks/readme.py``."""

import io
import json
from pathlib import Path

from PIL import Image

from rlhf_images.report.gallery import gallery
from rlhf_images.report.of_run import content_of

ROOT = Path(__file__).parents[1]
RUN = ROOT / "runs" / "demo"
PROMPTS, SIDE, SCALE, GAP = 2, 16, 3, 24


def picture() -> Image.Image:
    """Return the pictures of the report's gallery, all that are kept: the base's on the left, the best's right."""
    content = content_of(RUN)
    shown = gallery(content)
    assert shown is not None
    prompts = list(dict.fromkeys(shot.prompt for shot in content.shots))
    rows = [prompts[i : i + PROMPTS] for i in range(0, len(prompts), PROMPTS)]
    tiles = {(shot.prompt, shot.seed): shot.pictures for shot in content.shots}
    seeds = sorted({shot.seed for shot in content.shots})
    pitch = SIDE * SCALE + 4
    half = PROMPTS * len(seeds) * pitch
    whole = Image.new("RGB", (2 * half + GAP, len(rows) * pitch), "#808080")
    for number, column in enumerate((0, shown.start)):
        for row, of_row in enumerate(rows):
            for place, (prompt, seed) in enumerate((prompt, seed) for prompt in of_row for seed in seeds):
                tile = Image.open(io.BytesIO(tiles[prompt, seed][column])).convert("RGB")
                tile = tile.resize((SIDE * SCALE,) * 2, Image.Resampling.NEAREST)
                whole.paste(tile, (number * (half + GAP) + place * pitch + 2, row * pitch + 2))
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
