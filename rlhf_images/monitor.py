"""What a run leaves at each evaluation of its training: the evaluation itself, the best checkpoint, and the alarms."""

from pathlib import Path

from . import recorded
from .alarms import Alarm, write_alarms
from .best import keep_best
from .evaluator import Evaluation
from .files import disk_errors
from .finetune_config import TuningConfig
from .generators import Generator
from .generators.lora import save_trained
from .track import save_grid


def keep_evaluation(
    run: Path, config: TuningConfig, generator: Generator, evaluation: Evaluation, step: int
) -> tuple[dict[str, float], list[Alarm]]:
    """Write what ``generator`` drew after ``step`` finished steps into the folder ``run``, with its adapters.

    Return the means to be logged and the alarms that come up. On the main process alone, while the generator has the
    weights that drew it.
    """
    told, prompts = config.evaluation, list(dict.fromkeys(evaluation.prompts))
    rows = recorded.kept_rows(len(prompts), told.seeds_per_prompt, told.kept_prompts, told.kept_seeds)

    def weights(folder: Path) -> None:
        save_trained(generator, config.lora, folder)

    adapters = weights if config.lora is not None and step else None
    with disk_errors(run):
        now = recorded.record(recorded.place(run, step), evaluation, rows, step, adapters)
        keep_best(run, recorded.of_run(run), told.deciding, weights)
    base = recorded.base_of(run)
    gone = recorded.drift(now, base) if base is not None else {}
    save_grid(run / "samples" / f"step_{step:06d}.png", evaluation.images, evaluation.prompts)
    return {**evaluation.means(), **gone}, [alarm for alarm in write_alarms(run) if alarm.step == step]
