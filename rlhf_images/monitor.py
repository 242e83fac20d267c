"""What a run leaves at each evaluation of its training: the evaluation itself, the best checkpoint, and the alarms."""

from collections.abc import Callable
from pathlib import Path

from . import recorded
from .alarms import Alarm, write_alarms
from .best import keep_best
from .evaluator import Evaluation
from .files import disk_errors
from .finetune_config import TuningConfig
from .track import save_grid


def keep_evaluation(
    run: Path, config: TuningConfig, save: Callable[[Path], None], evaluation: Evaluation, step: int
) -> tuple[dict[str, float], list[Alarm]]:
    """Write what was drawn after ``step`` finished steps into the folder ``run``, with the adapters that drew it.

    ``save`` writes the weights that drew it into a folder. Return the means to be logged and the alarms that come up.
    On the main process alone.
    """
    told, prompts = config.evaluation, list(dict.fromkeys(evaluation.prompts))
    rows = recorded.kept_rows(len(prompts), told.seeds_per_prompt, told.kept_prompts, told.kept_seeds)

    adapters = save if config.lora is not None and step else None
    with disk_errors(run):
        now = recorded.record(recorded.place(run, step), evaluation, rows, step, adapters)
        keep_best(run, recorded.of_run(run), told.deciding, save)
    base = recorded.base_of(run)
    gone = recorded.drift(now, base) if base is not None else {}
    save_grid(run / "samples" / f"step_{step:06d}.png", evaluation.images, evaluation.prompts)
    return {**evaluation.means(), **gone}, [alarm for alarm in write_alarms(run) if alarm.step == step]
