"""``score``: what a reward says of pictures, and what that is worth."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, RewardFailed
from . import Stages

if TYPE_CHECKING:
    from ..pictures import Judged
    from ..reward import Reward


NAMED = "a folder of train-reward, a name in the table of rewards, or module:attribute; @ARGUMENT behind a name"

COLUMNS = {
    "score": ("score", "{:.4g}"),
    "std": ("std", "± {:.2g}"),
    "percentile": ("percentile", "{:.0f} %"),
    "preferred": ("P(preferred)", "{:.0%}"),
}
"""What is known of a picture, with its head in the table and how it is written."""


def add(stages: Stages) -> None:
    """Add the command."""
    score = stages.add_parser(
        "score",
        help="score pictures: score, std, percentile, chance against the reference",
        description="Score pictures with any reward. The reference are the pictures that a model was trained on.",
    )
    score.add_argument("model", help=NAMED)
    score.add_argument("images", nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    prompts = score.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="what all of them were drawn for (default: nothing); some models go by it")
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="the prompt of each picture: one a line, .jsonl, .json, .csv or .tsv",
    )
    score.add_argument("--json", action="store_true", help="a line of JSON a picture")
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> None:
    from reward_models import placed

    from ..pictures import UNSCORED, score_pictures

    paths = [path for name in options.images for path in _pictures(name)]
    prompts = _prompts(options, paths)
    reward = placed(options.model)
    groups = [prompts.index(prompt) for prompt in prompts]
    judged = score_pictures(reward, paths, prompts, groups=groups)
    rows = [_row(path, i, judged, reward) for i, path in enumerate(paths)]
    _print(rows, options.json)
    if judged.failures:
        asked = UNSCORED in judged.failures.values() and not any(prompts)
        hint = "; no --prompt was given, and the reward may go by it" if asked else ""
        raise RewardFailed(f"without a score: {len(judged.failures)} of {len(paths)}; the reasons are above{hint}")


def _row(path: Path, row: int, judged: "Judged", reward: "Reward") -> dict[str, Any]:
    """Return what is known of one picture; a failure has its reason and nothing else."""
    if row in judged.failures:
        return {"image": str(path), "failed": judged.failures[row]}
    scores, mean = judged.scores, judged.scores.mean[row : row + 1]
    known: dict[str, Any] = {"image": str(path), "score": float(mean)}
    if scores.std is not None:
        known["std"] = float(scores.std[row])
    if len(reward.reference):
        known["percentile"] = 100 * float(reward.percentiles(mean))
        if reward.log_odds:
            known["preferred"] = float(reward.preferred(mean))
    parts = {name: float(part[row]) for name, part in scores.components.items()}
    if parts := {name: value for name, value in parts.items() if math.isfinite(value)}:
        known["components"] = parts
    return known


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))  # noqa: T201
        return
    shown = [name for name in COLUMNS if any(name in row for row in rows)]
    parts = list(dict.fromkeys(name for row in rows for name in row.get("components", {})))
    table = [[*(COLUMNS[name][0] for name in shown), *parts]] + [_cells(row, shown, parts) for row in rows]
    widths = [max(12, *map(len, column)) for column in zip(*table, strict=True)]
    ends = ["picture", *(row["image"] + (f"  FAILED: {row['failed']}" if "failed" in row else "") for row in rows)]
    for cells, end in zip(table, ends, strict=True):
        print("  ".join([*(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), end]))  # noqa: T201


def _cells(row: dict[str, Any], shown: list[str], parts: list[str]) -> list[str]:
    """Return what is known of one picture as words, a dash for the rest."""
    known = [COLUMNS[name][1].format(row[name]) if name in row else "–" for name in shown]
    components = row.get("components", {})
    return known + [f"{components[name]:.4g}" if name in components else "–" for name in parts]


def _pictures(name: str) -> list[Path]:
    """Return the picture ``name``, or those in the folder of that name in the order of theirs."""
    from ..preferences.folder import ENDINGS

    if not name.strip():
        raise BadInput("an empty name among the pictures; name files or folders ('.' is the current one)")
    path = Path(name)
    if not path.is_dir():
        return [path]
    found = sorted(inner for inner in path.iterdir() if inner.suffix.lower() in ENDINGS)
    if not found:
        raise BadInput(f"{path}: no pictures in it")
    return found


def _prompts(options: argparse.Namespace, paths: list[Path]) -> list[str]:
    if options.prompts is None:
        return [options.prompt or ""] * len(paths)
    from ..prompt_files import read_prompt_file

    prompts = read_prompt_file(options.prompts)
    while prompts and not prompts[-1]:
        prompts.pop()
    if len(prompts) != len(paths):
        raise BadInput(f"--prompts {options.prompts}: {len(prompts)} prompts for {len(paths)} pictures; one each")
    return prompts
