"""The rounds of a run, whatever it learns from: step after step, with evaluations and checkpoints when they are due.

It continues after the newest checkpoint, and ends with the tuned weights; whatever stops one process stops all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import recorded
from .alarms import Alarm
from .checkpoint import save_checkpoint
from .efficiency import Efficiency, said
from .errors import Alarmed, BadInput, NonFinite, RewardFailed, Stop
from .evaluator import Evaluator
from .files import disk_errors, sweep, sync_tree
from .finetune_config import TuningConfig
from .generators.lora import save_trained
from .interruption import Interruption
from .model_card import model_card
from .monitor import keep_evaluation
from .policy import Policy
from .processes import Processes
from .progress import progress, say
from .reference import adopt, keep, kept, measured
from .report import refresh
from .reward import Reward
from .runs import Run
from .sharding import gathered
from .track import Log, start_trackers

ROUNDING = 1e-5
"""How far a likelihood ratio is from 1 where only the order of additions in float32 differs."""


@dataclass(frozen=True)
class Tuning(ABC):
    """Abstract: what the rounds of a run work with, whatever they learn from."""

    config: TuningConfig
    processes: Processes
    run: Run
    reward: Reward
    """The trained one, or (`dpo`) one that only watches."""
    evaluator: Evaluator
    policy: Policy
    metrics: Log
    evaluations: Log

    @abstractmethod
    def learn(self, step: int) -> dict[str, float]:
        """Take one step and return its metrics."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return plain values that a checkpoint has to keep besides the policy."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""


def rounds(processes: Processes, assembled: Callable[[], Tuning], shown: str) -> None:
    """Tune what ``assembled`` gives, with the metric ``shown`` beside the bar; save the weights.

    Whatever stops one process stops all of them, from the loading on.
    """
    with processes.watched():
        with processes.agreed():
            parts = assembled()
        processes.walk_in_step(parts.policy.generator, parts.policy.snapshots)
        start = resumed(parts)
        spent = Efficiency(parts.config.steps - start, parts.config.generator, processes.device)
        with Interruption() as interruption:
            _learn_all(parts, start, spent, interruption, shown)
        _finish(parts, spent.summary())
    if parts.config.trackers:
        processes.accelerator.end_training()
    return say(f"tuned weights saved to {parts.config.out}")


def _learn_all(parts: Tuning, start: int, spent: Efficiency, interruption: Interruption, shown: str) -> None:
    """Take every step that is left, with the evaluations and checkpoints that are due between them."""
    config, processes, run = parts.config, parts.processes, parts.run
    note = dict[str, str]()
    for step in progress(range(start, config.steps), run.record["stage"], config.steps, start, note):
        try:
            metrics = spent.step(partial(parts.learn, step))
        except Stop as stop:
            with suppress(OSError):
                run.save()
            if isinstance(stop, NonFinite | RewardFailed):
                raise type(stop)(f"step {step}: {stop}; what led to it is in {run.folder / 'refused'}") from None
            raise
        done, last = step + 1, step + 1 == config.steps
        processes.written(partial(parts.metrics.add, {"step": done, **metrics}))
        processes.accelerator.log(metrics, step=done)
        if step == start and "ratio_off" in metrics:
            say(_ratio_said(metrics["ratio_off"]))
        note[shown] = f"{metrics[shown]:.3f}"
        stopping = processes.any(interruption.signal != 0 or processes.orphaned)
        raised = _evaluate(parts, done) if last or done % config.evaluation.every == 0 else []
        alarmed = config.stop_on_alarm and processes.any(bool(raised))
        if last or stopping or alarmed or done % config.checkpoint_every == 0:
            _checkpoint(parts, done)
        if stopping and not last:
            raise interruption.stop(f"step {done} is saved")
        if alarmed and not last:
            raise Alarmed(
                f"step {done} is saved; look at {run.folder / 'samples'}; the same command goes on all the same"
            )


def resumed(parts: Tuning) -> int:
    """Put the newest checkpoint back, take back what was logged after it, and return its step; evaluate a new run."""
    parts.processes.wait()
    state = parts.policy.restore(parts.run.folder / "checkpoints")
    parts.restore(state)
    start = int(state["step"])
    if parts.processes.largest(start) != -parts.processes.largest(-start):
        raise BadInput(f"{parts.config.out}: the processes find different checkpoints; they must share this folder")
    if parts.config.steps < start:
        raise BadInput(f"{parts.config.out}: steps {parts.config.steps}, but {start} are done; choose another 'out'")
    references = kept(parts.run.folder) if start else _measured(parts)
    adopt(parts.reward, references)
    before, scored_by = parts.run.record.get("scored_by"), parts.reward.id
    if start and before not in (None, scored_by):
        raise BadInput(
            f"{parts.config.out}: its first {start} steps were scored by {before}, now the reward is {scored_by}; put"
            " its file and weights back as they were, or choose another 'out'"
        )

    def write() -> None:
        for folder in (parts.run.folder, parts.run.folder / recorded.FOLDER, parts.run.folder / "samples"):
            sweep(folder)
        parts.run.note_changes(start)
        labelled = parts.reward.reference
        parts.run.save(scored_by=scored_by, highest_labelled=float(labelled.max()) if len(labelled) else None)
        if references:
            keep(parts.run.folder, references)
        for log in (parts.metrics, parts.evaluations):
            log.rewind(start or -1)
        recorded.rewind(parts.run.folder, start or -1)

    parts.processes.written(write)
    start_trackers(parts.processes.accelerator, parts.config.trackers, parts.config.out, parts.config)
    if start:
        say(f"{parts.config.out}: continues after step {start}")
    else:
        _evaluate(parts, 0)
    return start


def _measured(parts: Tuning) -> dict[str, list[float]]:
    """Return by what the reward has to be normalised, if it has: its scores of the base generator's pictures."""
    if not parts.reward.unmeasured():
        return {}
    drawn = parts.evaluator.draw(parts.policy.generator, parts.config.evaluation.seeds_per_prompt)
    return measured(parts.reward, lambda part: parts.evaluator.scores(part, drawn))


def _checkpoint(parts: Tuning, done: int) -> None:
    """Save the run after ``done`` steps; what was logged of them is on disk before the checkpoint that follows it."""
    tensors = parts.policy.tensors()

    def write() -> None:
        for log in (parts.metrics, parts.evaluations):
            log.sync()
        save_checkpoint(parts.run.folder / "checkpoints", done, tensors, parts.state())
        parts.run.save()

    parts.processes.written(write)


def _finish(parts: Tuning, efficiency: dict[str, float]) -> None:
    """Write the tuned weights as plain diffusers reads them; they are on disk before the run is said to be finished."""
    say(said(efficiency))

    def write() -> None:
        with disk_errors(parts.run.folder):
            save(parts.run.folder)
        sync_tree(parts.run.folder)
        parts.run.save(finished=True, efficiency=efficiency)
        _show(parts.run.folder)

    with parts.policy.kept():
        save = _saving(parts)
        parts.processes.written(write)


def ended(run: Run, steps: int) -> None:
    """Say that ``run`` has ended; keep what its config says now, and do what a kill at its very end left undone."""
    run.keep_changes(steps)
    page = run.folder / "report.html"
    if run.writes and not (page.is_file() and page.stat().st_mtime_ns >= run.path.stat().st_mtime_ns):
        _show(run.folder)
    return say(f"{run.folder}: already tuned; more 'steps' would continue it")


def _show(folder: Path) -> None:
    """Write the page of a run that has ended, last, after its model card."""
    with suppress(BadInput):  # what cannot be read is said by the page
        model_card(folder)
    refresh(folder)


def _saving(parts: Tuning) -> Callable[[Path], None]:
    """Return what writes the weights as they are now, whole, into a folder, on the main process."""
    weights = gathered(parts.policy.parameters, keep=parts.processes.is_main)

    def save(folder: Path) -> None:
        save_trained(parts.policy.generator, parts.config.lora, folder, weights=weights)

    return save


def _ratio_said(off: float) -> str:
    """Return what the first update's likelihood ratios say: all are 1 if sampling and training agree."""
    if off == 0:
        return "likelihood ratios at the first update: exactly 1, sampling and training compute the same"
    if off <= ROUNDING:
        return (
            f"likelihood ratios at the first update: 1, but for rounding ({off:.1g}); exactly 1 where as many pictures"
            " are learnt side by side as were drawn: a micro_size that divides the pictures of an update"
        )
    return (
        f"likelihood ratios at the first update: up to {off:.2g} away from 1, so sampling and training do not compute"
        " the same; compare it with the algorithm's clip, and use generator.dtype: float32 or another micro_size if it"
        " is not much smaller"
    )


def _evaluate(parts: Tuning, done: int) -> list[Alarm]:
    """Evaluate the fixed prompts and seeds after ``done`` steps, and let the main process keep what came of it.

    Return the alarms that come up, on the main process.
    """
    run, raised = parts.run, list[Alarm]()
    with parts.policy.kept():
        evaluation = parts.evaluator.evaluate(parts.policy.generator, parts.config.evaluation.seeds_per_prompt)
        save = _saving(parts)

        def write() -> None:
            row, alarms = keep_evaluation(run.folder, parts.config, save, evaluation, done)
            parts.evaluations.add({"step": done, **row})
            parts.processes.accelerator.log({f"evaluation/{name}": value for name, value in row.items()}, step=done)
            raised.extend(alarms)
            refresh(run.folder)

        parts.processes.written(write)
    for alarm in raised:
        say(f"ALARM after step {done}, {alarm.name}: {alarm.seen}")
    return raised
