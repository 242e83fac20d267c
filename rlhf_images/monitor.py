"""What a run leaves at each evaluation of its training: the evaluation itself, the best checkpoint, and the report."""

from pathlib import Path

from . import recorded
from .best import keep_best
from .evaluator import Evaluation
from .finetune_config import FinetuneConfig
from .generators import Generator
from .generators.lora import save_trained
from .report import report
from .runs import Run
from .track import Log, save_grid


def keep_evaluation(
    run: Run, config: FinetuneConfig, generator: Generator, evaluation: Evaluation, step: int, log: Log
) -> None:
    """Write what ``generator`` drew after ``step`` finished steps, its adapters, and the page of the run so far.

    On the main process alone, while the generator has the weights that drew it.
    """
    told, prompts = config.evaluation, list(dict.fromkeys(evaluation.prompts))
    rows = recorded.kept_rows(len(prompts), told.seeds_per_prompt, told.kept_prompts, told.kept_seeds)

    def weights(folder: Path) -> None:
        save_trained(generator, config.lora, folder)

    adapters = weights if config.lora is not None and step else None
    now = recorded.record(recorded.place(run.folder, step), evaluation, rows, step, adapters)
    base = recorded.base_of(run.folder)
    gone = recorded.drift(now, base) if base is not None else {}
    log.add({"step": step, **evaluation.means(), **gone})
    save_grid(run.folder / "samples" / f"step_{step:06d}.png", evaluation.images, evaluation.prompts)
    keep_best(run.folder, recorded.of_run(run.folder), told.deciding, weights)
    report(run.folder)
