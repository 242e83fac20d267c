"""Stage `evaluate`: the base, the tuned generator and its best checkpoint on fixed prompts × seeds; `summary.json`."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from . import recorded
from .best import FOLDER as BEST
from .best import kept_best
from .config import build
from .dpo import DPOConfig
from .errors import BadInput
from .evaluator import Evaluator
from .files import write_json
from .finetune_config import FinetuneConfig, TuningConfig
from .generators import Generator
from .generators.lora import load_trained
from .model_card import model_card
from .processes import Processes
from .progress import say
from .recorded import Recorded
from .reference import adopt, kept
from .report import report
from .report.of_run import COMPARED, compared, read_card, read_json
from .report.of_run import find_run as find_any
from .report.summary import summarise
from .reward import Reward, RewardSpec
from .runs import elapsed, read_record
from .track import save_grid

STAGES: dict[str, type[TuningConfig]] = {"finetune": FinetuneConfig, "dpo": DPOConfig}
"""The stages that tune a generator, each with its config."""


def evaluate(folder: str, load_reward: Callable[[RewardSpec], Reward]) -> None:
    """Compare the tuned generator of run ``folder`` (or the one in it) with its base; write the report there."""
    root = Path(folder)
    run, record = find_run(root)
    config = config_of(run, record)
    processes = Processes()
    rewards: dict[str, RewardSpec] = {"reward": config.reward, **config.evaluation.judges}
    judges = {name: load_reward(spec).to(processes.device) for name, spec in rewards.items()}
    adopt(judges["reward"], kept(run))
    evaluator = Evaluator(config.evaluation, judges, processes, config.micro_size)
    sources: dict[str, Path | None] = {"base": None, "tuned": run}
    if kept_best(run).get("step") not in (None, config.steps):
        sources["best"] = run / BEST
    say(
        f"drawing {len(evaluator.prompts)} prompts × {config.evaluation.final_seeds_per_prompt} seeds:"
        f" {', '.join(sources)}"
    )

    def loaded(source: Path | None, guidance: float = config.generator.guidance) -> Generator:
        generator = Generator.load(replace(config.generator, guidance=guidance), processes.device)
        generator.remember(evaluator.prompts)
        if source is not None:
            load_trained(generator, source)
        return generator

    drawn = draw(run, root, {name: partial(loaded, source) for name, source in sources.items()}, evaluator)
    card = read_card(Path(config.reward)) if isinstance(config.reward, str) else None
    remedy = "the tuning command again with evaluation.deciding=NAME, then evaluate"
    summary = decided(summarise(drawn, config.evaluation.deciding, card), remedy)
    if config.evaluation.other_guidance is not None:
        guidance = config.evaluation.other_guidance
        means = {
            name: evaluator.evaluate(loaded(sources[name], guidance), evaluator.config.final_seeds_per_prompt).means()
            for name in ("base", "tuned")
        }
        say(guided(guidance, means))
        summary["other_guidance"] = {"guidance": guidance, **means}
    summary["seconds"] = stage_seconds(root, record)
    processes.written(partial(conclude, root, summary, list(judges)))
    if record["stage"] == "finetune":
        processes.written(partial(model_card, run))


def guided(guidance: float, means: Mapping[str, Mapping[str, float]]) -> str:
    """Return the mean scores of ``base`` and ``tuned`` at another ``guidance`` than they were tuned at, as lines."""
    rows = [f"  {name:22}{means['base'][name]:10.3f}{means['tuned'][name]:10.3f}" for name in means["base"]]
    return "\n".join([f"{f'at guidance {guidance:g}':24}{'base':>10}{'tuned':>10}", *rows])


def draw(
    run: Path, root: Path, generators: Mapping[str, Callable[[], Generator]], evaluator: Evaluator
) -> dict[str, Recorded]:
    """Draw and judge what each of ``generators`` makes, keep it in the folder of ``run`` and a grid of it in ``root``.

    They are loaded one after the other, and none stays. What an earlier comparison left is replaced when all are drawn.
    Of several processes each draws its share, and the main one writes.
    """
    config, staged, written = evaluator.config, run / f".{COMPARED}", evaluator.processes.written
    written(partial(shutil.rmtree, staged, ignore_errors=True))
    seeds = config.final_seeds_per_prompt
    rows = recorded.kept_rows(len(evaluator.prompts), seeds, config.kept_prompts, config.kept_seeds)
    entries = []
    for number, (name, load) in enumerate(generators.items()):
        evaluation = evaluator.evaluate(load(), seeds)
        written(partial(recorded.record, staged / f"{number:03d}", evaluation, rows))
        entries.append({"name": name, "folder": f"{number:03d}"})
        if "/" not in name:
            written(partial(save_grid, root / f"{name}.png", evaluation.images, evaluation.prompts))

    def replaced() -> None:
        write_json(staged / f"{COMPARED}.json", {"generators": entries})
        shutil.rmtree(run / COMPARED, ignore_errors=True)
        staged.replace(run / COMPARED)

    written(replaced)
    return compared(run)


def decided(summary: dict[str, Any], remedy: str) -> dict[str, Any]:
    """Return ``summary`` if its judge decided any pair; else say that it failed, and the ``remedy``."""
    if summary["win_rate"] is None:
        raise BadInput(f"the judge '{summary['judge']}' failed on every pair; choose another: {remedy}")
    return summary


def conclude(
    root: Path, summary: dict[str, Any], judges: list[str], names: tuple[str, ...] = ("base", "tuned", "best")
) -> None:
    """Write the summary and the report to ``root``, and say what came out."""
    write_json(root / "summary.json", summary)
    path = report(root)
    say(table(summary, judges, names))
    say(f"report: {path}")


def find_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the finished `finetune` or `dpo` run in or at ``folder``, and its record."""
    path, record = find_any(folder)
    if record["stage"] not in STAGES:
        raise BadInput(f"{folder}: a comparison, and not a run of finetune or dpo")
    if not record["finished"]:
        raise BadInput(f"{path}: the run has not finished; the same {record['stage']} command continues it")
    return path, record


def config_of(run: Path, record: dict[str, Any]) -> TuningConfig:
    """Return what the tuning run in folder ``run`` was told."""
    return build(STAGES[record["stage"]], record["config"], f"{run}/run.json")


def stage_seconds(root: Path, record: dict[str, Any]) -> dict[str, float]:
    """Return the wall time of each stage that left a record beside this run, of this one so far, and their sum."""
    seconds: dict[str, float] = {}
    for path in sorted(root.glob("*/run.json")):
        other = read_record(path.parent)
        seconds[other["stage"]] = seconds.get(other["stage"], 0.0) + float(other["seconds"])
        for label in sorted(path.parent.glob("labels/*.json")):
            seconds["label"] = seconds.get("label", 0.0) + float(read_json(label).get("seconds", 0.0))
    seconds.setdefault(record["stage"], float(record["seconds"]))
    seconds["evaluate"] = round(elapsed(), 2)
    seconds["total"] = round(sum(seconds.values()), 2)
    return seconds


def table(summary: dict[str, Any], judges: list[str], names: tuple[str, ...]) -> str:
    """Return the summary as the few lines that end a demo; the win rate is the second's of ``names``."""
    low, high = summary["win_rate_ci"]
    wide = {name: max(10, len(name) + 2) for name in names if f"diversity_{name}" in summary}
    lines = [f"{'':24}" + "".join(f"{name:>{width}}" for name, width in wide.items())]
    for row in [*judges, "diversity"]:
        lines.append(f"{row:24}" + "".join(f"{_shown(summary[f'{row}_{name}']):>{wide[name]}}" for name in wide))
    lines.append(
        f"{names[1]} preferred in {summary['win_rate']:.1%} of {summary['win_rate_pairs']} pairs by"
        f" '{summary['judge']}' (95 % CI {low:.1%} to {high:.1%}, clustered by {summary['win_rate_clusters']} prompts)"
    )
    card = summary.get("reward_model")
    if card and card["held_out_accuracy"] is not None:
        ceiling = f", ceiling {card['ceiling']:.1%}" if card["ceiling"] is not None else ""
        lines.append(
            f"reward model right on {card['held_out_accuracy']:.1%} of {card['pairs_held_out']} held-out pairs{ceiling}"
        )
    lines.append("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items()))
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
