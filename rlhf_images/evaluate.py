"""Stage `evaluate`: base against tuned on fixed prompts × seeds, a report, and `summary.json`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import build
from .errors import BadInput
from .evaluator import Evaluation, Evaluator
from .files import write_json
from .finetune_config import FinetuneConfig
from .generators import Generator
from .generators.lora import load_trained
from .processes import Processes
from .progress import say
from .reference import adopt, kept
from .report import Compared, Content, write_report
from .reward import Reward, RewardSpec
from .runs import elapsed, read_record
from .statistics import win_rate
from .track import read_rows, save_grid


def evaluate(folder: str, load_reward: Callable[[RewardSpec], Reward]) -> None:
    """Compare the tuned generator of run ``folder`` (or the one in it) with its base; write the report there."""
    root, tuned_folder, record = find_run(Path(folder))
    config = build(FinetuneConfig, record["config"], f"{tuned_folder}/run.json")
    processes = Processes()
    rewards: dict[str, RewardSpec] = {"reward": config.reward, **config.evaluation.judges}
    judges = {name: load_reward(spec).to(processes.device) for name, spec in rewards.items()}
    adopt(judges["reward"], kept(tuned_folder))
    if config.evaluation.deciding not in judges:
        raise BadInput(f"evaluation.deciding: no judge '{config.evaluation.deciding}'; there are {', '.join(judges)}")
    evaluator = Evaluator(config.evaluation, judges, processes, config.micro_size)
    generator = Generator.load(config.generator, processes.device)
    generator.remember(evaluator.prompts)
    seeds = config.evaluation.final_seeds_per_prompt
    say(f"drawing {len(evaluator.prompts)} prompts × {seeds} seeds, base and tuned")
    base = evaluator.evaluate(generator, seeds)
    load_trained(generator, tuned_folder)
    tuned = evaluator.evaluate(generator, seeds)

    card = read_card(Path(config.reward)) if isinstance(config.reward, str) else None
    summary = summarise(base, tuned, config.evaluation.deciding, card)
    summary["seconds"] = stage_seconds(root, record)
    content = Content(
        title=str(folder),
        summary=summary,
        compared=_compared(base, tuned, config.evaluation.deciding),
        metrics=read_rows(tuned_folder / "metrics.jsonl"),
        evaluations=read_rows(tuned_folder / "evaluations.jsonl"),
        scores={name: (base.scores[name].tolist(), tuned.scores[name].tolist()) for name in judges},
        judge=config.evaluation.deciding,
        reward_card=card,
        run=record,
        compare_command=f"rlhf-images label --compare {config.generator.path} {tuned_folder} --same-seed",
    )
    for name, evaluation in (("base", base), ("tuned", tuned)):
        save_grid(root / f"{name}.png", evaluation.images, evaluation.prompts)
    write_json(root / "summary.json", summary)
    write_report(root / "report.html", content)
    say(table(summary, list(judges)))
    say(f"report: {root / 'report.html'}")


def find_run(folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Return where the report goes, the folder of the finished `finetune` run in or at ``folder``, and its record."""
    here = [folder] if (folder / "run.json").is_file() else sorted(path.parent for path in folder.glob("*/run.json"))
    runs = [(path, record) for path in here if (record := read_record(path))["stage"] == "finetune"]
    if not runs:
        raise BadInput(
            f"{folder}: no finetune run in it; tune a generator first: accelerate launch scripts/finetune.py CONFIG"
        )
    if len(runs) > 1:
        raise BadInput(f"{folder}: several runs in it ({', '.join(path.name for path, _ in runs)}); name one of them")
    path, record = runs[0]
    if not record["finished"]:
        raise BadInput(f"{path}: the run has not finished; the same finetune command continues it")
    return folder, path, record


def summarise(base: Evaluation, tuned: Evaluation, deciding: str, card: dict[str, Any] | None) -> dict[str, Any]:
    """Return what `summary.json` says of two evaluations of the same prompts and seeds, but for the times."""
    before, after = base.scores[deciding], tuned.scores[deciding]
    known = torch.isfinite(before) & torch.isfinite(after)
    if not bool(known.any()):
        raise BadInput(f"the judge '{deciding}' failed on every pair; choose another as evaluation.deciding")
    wins = ((after > before).float() + (after == before).float() / 2)[known]
    estimate = win_rate(wins.tolist(), [prompt for prompt, k in zip(base.prompts, known.tolist(), strict=True) if k])
    summary: dict[str, Any] = {
        "judge": deciding,
        "win_rate": estimate.value,
        "win_rate_ci": [estimate.low, estimate.high],
        "win_rate_pairs": estimate.n,
        "win_rate_clusters": estimate.clusters,
        "prompts": len(set(base.prompts)),
    }
    for name, before_value in base.means().items():
        summary |= {f"{name}_base": _finite(before_value), f"{name}_tuned": _finite(tuned.means()[name])}
    if card is not None:
        keys = ("held_out_accuracy", "held_out_accuracy_ci", "ceiling", "pairs_train", "pairs_held_out", "split")
        summary["reward_model"] = {key: card.get(key) for key in keys}
    return summary


def stage_seconds(root: Path, record: dict[str, Any]) -> dict[str, float]:
    """Return the wall time of each stage that left a record beside this run, of this one so far, and their sum."""
    seconds: dict[str, float] = {}
    for path in sorted(root.glob("*/run.json")):
        other = read_record(path.parent)
        seconds[other["stage"]] = seconds.get(other["stage"], 0.0) + float(other["seconds"])
        for label in sorted(path.parent.glob("labels/*.json")):
            seconds["label"] = seconds.get("label", 0.0) + float(_json(label).get("seconds", 0.0))
    seconds.setdefault("finetune", float(record["seconds"]))
    seconds["evaluate"] = round(elapsed(), 2)
    seconds["total"] = round(sum(seconds.values()), 2)
    return seconds


def read_card(folder: Path) -> dict[str, Any] | None:
    """Return the card that `train-reward` wrote, or None for a reward that has none."""
    return _json(folder / "card.json") if (folder / "card.json").is_file() else None


def table(summary: dict[str, Any], judges: list[str]) -> str:
    """Return the summary as the few lines that end a demo."""
    low, high = summary["win_rate_ci"]
    lines = [f"{'':24}{'base':>10}{'tuned':>10}"]
    lines += [
        f"{name:24}{_shown(summary[f'{name}_base'])}{_shown(summary[f'{name}_tuned'])}"
        for name in [*judges, "diversity"]
    ]
    lines.append(
        f"tuned preferred in {summary['win_rate']:.1%} of {summary['win_rate_pairs']} pairs by '{summary['judge']}' "
        f"(95 % CI {low:.1%} to {high:.1%}, clustered by {summary['win_rate_clusters']} prompts)"
    )
    card = summary.get("reward_model")
    if card and card["held_out_accuracy"] is not None:
        ceiling = f", ceiling {card['ceiling']:.1%}" if card["ceiling"] is not None else ""
        lines.append(
            f"reward model right on {card['held_out_accuracy']:.1%} of {card['pairs_held_out']} held-out pairs{ceiling}"
        )
    lines.append("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items()))
    return "\n".join(lines)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return f"{'–':>10}" if value is None else f"{value:10.3f}"


def _compared(base: Evaluation, tuned: Evaluation, deciding: str) -> list[Compared]:
    columns: list[list[Any]] = [base.prompts, base.index, list(base.images), list(tuned.images)]
    scores: list[Tensor] = [base.scores[deciding], tuned.scores[deciding]]
    return [Compared(*row) for row in zip(*columns, *(column.tolist() for column in scores), strict=True)]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
