"""``score``: what a reward says of pictures, and what that is worth."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, RewardFailed
from . import Stages

if TYPE_CHECKING:
    from ..pictures import Judged
    from ..reward import Reward


def add(stages: Stages) -> None:
    """Add the command."""
    score = stages.add_parser(
        "score",
        help="score pictures: score, std, percentile, chance against the reference",
        description="Score pictures with any reward. The reference are the pictures that a model was trained on.",
    )
    score.add_argument("model", help="a folder of train-reward, a name in the table of rewards, or module:attribute")
    score.add_argument("images", nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    prompts = score.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="what all of them were drawn for (default: nothing)")
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="the prompt of each picture: one a line, .jsonl, .json, .csv or .tsv",
    )
    score.add_argument("--json", action="store_true", help="a line of JSON a picture")
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> None:
    from reward_models import placed

    from ..pictures import score_pictures

    paths = [path for name in options.images for path in _pictures(Path(name))]
    prompts = _prompts(options, paths)
    reward = placed(options.model)
    groups = [prompts.index(prompt) for prompt in prompts]
    judged = score_pictures(reward, paths, prompts, groups=groups)
    rows = [_row(path, i, judged, reward) for i, path in enumerate(paths)]
    _print(rows, options.json)
    if judged.failures:
        raise RewardFailed(f"{len(judged.failures)} of {len(paths)} pictures have no score; see the reasons above")


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
    return known


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))  # noqa: T201
        return
    columns = {"score": "{:.4g}", "std": "± {:.2g}", "percentile": "{:.0f} %", "preferred": "{:.0%}"}
    shown = [name for name in columns if any(name in row for row in rows)]
    heads = {"preferred": "P(preferred)"}
    print("  ".join(f"{heads.get(name, name):>12}" for name in shown) + ("  picture" if shown else "picture"))  # noqa: T201
    for row in rows:
        cells = [columns[name].format(row[name]) if name in row else "–" for name in shown]
        reason = f"  FAILED: {row['failed']}" if "failed" in row else ""
        print("  ".join([*(f"{cell:>12}" for cell in cells), row["image"]]) + reason)  # noqa: T201


def _pictures(path: Path) -> list[Path]:
    """Return ``path``, or the pictures in it in the order of their names."""
    from ..preferences.folder import ENDINGS

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
