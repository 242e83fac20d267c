"""Stage `finetune`: the loop. Sample, score, compare within groups, learn, and again; blind to algorithm and model.

Legend: a step draws P prompts, each K times (a group); picture i of a step is draw i % K of prompt i // K, and every
process has a contiguous slice of these global indices. Sizes are totals over all processes, but for `micro_size`, which
changes nothing except memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from . import recorded
from .alarms import Alarm
from .algorithms import Examples, Scored
from .efficiency import Efficiency, said
from .errors import Alarmed, BadInput, NonFinite, RewardFailed, Stop
from .evaluator import Evaluator
from .files import disk_errors, sync_tree
from .finetune_config import FIELDS, FinetuneConfig, TuningConfig
from .generators import Generator
from .generators.lora import check_trainable, make_trainable, save_trained
from .interruption import Interruption
from .math import advantages
from .model_card import model_card
from .monitor import keep_evaluation
from .policy import Policy
from .processes import Processes
from .progress import progress, say
from .prompt_statistics import PromptStatistics
from .prompts import PromptStream, read_prompts
from .randomness import Randomness
from .reference import adopt, keep, kept, measured
from .report import refresh
from .reward import Reward, RewardSpec, Scores
from .runs import Run
from .sampling import Rollout
from .scoring import gathered_scores
from .track import Clock, Log, check_trackers, keep_evidence, start_trackers

ADVANTAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "centred": advantages.centre,
    "leave_one_out": advantages.leave_one_out,
    "group_std": advantages.standardise,
    "global_std": lambda rewards_PK, valid_PK: advantages.standardise(rewards_PK, valid_PK, over_all=True),
}

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


@final
@dataclass(frozen=True)
class Parts(Tuning):
    """What a run against a reward works with."""

    config: FinetuneConfig
    stream: PromptStream
    statistics: PromptStatistics

    def learn(self, step: int) -> dict[str, float]:
        """Sample, score, compare and learn."""
        return learn(self, step)

    def state(self) -> dict[str, Any]:
        """Return the last scores of every prompt."""
        return {"prompt_statistics": self.statistics.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.statistics.restore(state.get("prompt_statistics", {}))


def finetune(config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward]) -> None:
    """Tune a generator against a reward; ``load_reward`` gives the rewards that the config names."""
    processes = Processes()
    inputs = (config.generator.path, *([config.reward] if isinstance(config.reward, str) else config.reward))
    run = Run("finetune", config, config.out, inputs=inputs, fields=FIELDS, writes=processes.is_main)
    if run.finished and "steps" not in run.changed:
        run.keep_changes(config.steps)
        return say(f"{config.out}: already tuned; more 'steps' would continue it")
    return rounds(processes, partial(_assembled, config, load_reward, processes, run), "reward")


def rounds(processes: Processes, assembled: Callable[[], Tuning], shown: str) -> None:
    """Tune what ``assembled`` gives, with the metric ``shown`` beside the bar; save the weights.

    Whatever stops one process stops all of them, from the loading on.
    """
    with processes.watched():
        with processes.agreed():
            parts = assembled()
        start = _resumed(parts)
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


def learn(parts: Parts, step: int) -> dict[str, float]:
    """Take one step of the loop and return its metrics."""
    config, processes, policy, algorithm = parts.config, parts.processes, parts.policy, parts.config.algorithm
    randomness, clock, sums, count = Randomness(config.seed, step), Clock(), dict[str, float](), 0
    off = list[float]()
    drawn = parts.stream.take(step, config.prompts_per_step)
    grouped = [prompt for prompt in drawn for _ in range(config.group_size)]
    mine = list(processes.mine(len(grouped)))

    prompts = [grouped[i] for i in mine]
    rollout = algorithm.rollout(policy.generator, policy.snapshots, prompts, mine, randomness, config.micro_size)
    clock.lap("sampling")
    try:
        scores = _rewarded(parts, rollout, grouped)
        rewards_PK, valid_PK = (column.view(-1, config.group_size) for column in (scores.mean, scores.valid))
        clock.lap("scoring")
        advantages_PK = _advantages(parts, drawn, rewards_PK, valid_PK)
        scored = Scored(rewards_PK, valid_PK, advantages_PK, mine, processes.shared)
        examples = algorithm.examples(rollout, scored, policy.generator, randomness)
        for update, size in _updates(parts, examples, scored, randomness):
            off.append(policy.update(algorithm, parts.reward, update, size, config.micro_size, sums))
            count += len(update)
        policy.check()
    except Stop:
        keep_evidence(parts.run.folder / "refused", f"step_{step:06d}", rollout, processes.rank)
        raise
    algorithm.after_step(policy.snapshots, step)
    policy.average(config.average_decay)
    clock.lap("learning")

    totals = processes.sums({**sums, "examples": float(count)})
    examples_learnt = totals.pop("examples")
    learnt = {name: total / examples_learnt for name, total in totals.items()}
    components = {f"reward/{name}": float(part.nanmean()) for name, part in scores.components.items()}
    rewarded = {**_reward_metrics(rewards_PK, valid_PK), **components}
    if "ratio" in learnt:
        learnt["ratio_off"] = processes.largest(off[0])
    return {**rewarded, **learnt, "lr": config.optimizer.lr, **clock.metrics(len(grouped))}


def _assembled(
    config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward], processes: Processes, run: Run
) -> Parts:
    """Return everything that the config names, loaded; refuses what does not go together before anything is written."""
    check_trackers(config.trackers)
    if config.prompts_per_step * config.group_size < processes.count:
        raise BadInput(f"fewer pictures a step than the {processes.count} processes; raise prompts_per_step")
    stream = PromptStream(read_prompts(config.prompts), config.seed)
    config.algorithm.check_path(check_trainable(config.generator, config.lora))
    reward = load_reward(config.reward).to(processes.device)
    if config.algorithm.differentiates_reward and not reward.can.differentiable:
        raise BadInput(
            f"algorithm {config.algorithm.name} needs the gradient of the reward, which {config.reward} does not have;"
            " take one that is differentiable, or an algorithm that only compares scores, such as nft"
        )
    if config.algorithm.differentiates_reward and reward.can.groupwise:
        raise BadInput(
            f"algorithm {config.algorithm.name} takes the reward of single pictures, and {config.reward} compares those"
            " of a group; leave that part out, or take an algorithm that only compares scores, such as nft"
        )
    judges = {name: load_reward(spec).to(processes.device) for name, spec in config.evaluation.judges.items()}
    judged_by, refused = {"reward": reward, **judges}, run.folder / "refused"
    evaluator = Evaluator(config.evaluation, judged_by, processes, config.micro_size, refused)
    generator = Generator.load(config.generator, processes.device)
    generator.remember([*stream.prompts, *evaluator.prompts])
    make_trainable(generator, config.lora, config.seed)
    names = (*config.algorithm.snapshots(), *(("average",) if config.average_decay else ()))
    policy = Policy(generator, names, config.optimizer, processes)
    statistics = PromptStatistics(config.prompt_statistics)
    metrics, evaluations = (Log(run.folder / f"{name}.jsonl", writes=run.writes) for name in ("metrics", "evaluations"))
    return Parts(config, processes, run, reward, evaluator, policy, metrics, evaluations, stream, statistics)


def _resumed(parts: Tuning) -> int:
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

    def write() -> None:
        for log in (parts.metrics, parts.evaluations):
            log.sync()
        parts.policy.save(parts.run.folder / "checkpoints", done, parts.state())
        parts.run.save()

    parts.processes.written(write)


def _finish(parts: Tuning, efficiency: dict[str, float]) -> None:
    """Write the tuned weights as plain diffusers reads them; they are on disk before the run is said to be finished."""
    say(said(efficiency))

    def write() -> None:
        with parts.policy.kept(), disk_errors(parts.run.folder):
            save_trained(parts.policy.generator, parts.config.lora, parts.run.folder)
        sync_tree(parts.run.folder)
        parts.run.save(finished=True, efficiency=efficiency)
        refresh(parts.run.folder)
        with suppress(BadInput):  # what cannot be read was said by the page
            model_card(parts.run.folder)

    parts.processes.written(write)


def _rewarded(parts: Parts, rollout: Rollout, prompts: list[str]) -> Scores:
    """Return the scores of all the step's pictures, the same on every process; stop on what must not be learnt."""
    config, processes, index, total = parts.config, parts.processes, rollout.index, len(prompts)
    finite = torch.isfinite(rollout.images).flatten(1).all(1) & torch.isfinite(rollout.x0).flatten(1).all(1)
    whole = int(processes.shared(finite.float(), index, total).sum())
    if whole < total:
        raise NonFinite(f"{total - whole} sampled pictures are not finite; the step was refused")
    groups = [row // config.group_size for row in range(total)]
    scores = gathered_scores(parts.reward, rollout.images, index, prompts, groups, processes, config.micro_size)
    failed = [prompt for prompt, valid in zip(prompts, scores.valid.tolist(), strict=True) if not valid]
    if len(failed) > config.tolerated_failures * total or len(failed) == total:
        allowed = f"tolerated_failures allows {config.tolerated_failures:.0%}"
        example = f"such as one of '{failed[0][:60]}'"
        raise RewardFailed(f"the reward failed on {len(failed)} of {total} pictures, {example}; {allowed}")
    return Scores(scores.mean.nan_to_num(), scores.valid, components=scores.components)  # failed ones are masked


def _advantages(parts: Parts, drawn: list[str], rewards_PK: Tensor, valid_PK: Tensor) -> Tensor:
    """Return how each picture compares, by the config's way."""
    if parts.config.advantage == "per_prompt":
        return parts.statistics.advantages(drawn, rewards_PK, valid_PK)
    return ADVANTAGES[parts.config.advantage](rewards_PK, valid_PK)


def _updates(
    parts: Parts, examples: Examples, scored: Scored, randomness: Randomness
) -> Iterator[tuple[Examples, int]]:
    """Yield this process's examples of each update and the update's total over all: equal shares of every group.

    Groups in which nothing can be learnt, for all have the same score, are left out (and counted in the metrics).
    """
    config, group = parts.config, parts.config.group_size
    count, units = config.updates_per_step, group if group > 1 else config.prompts_per_step
    turn = {unit: i * count // units for i, unit in enumerate(randomness.permutation("updates", units))}
    told = (scored.advantages_PK != 0).any(1) if config.algorithm.compares else torch.ones(len(scored.valid_PK)).bool()
    rows: list[list[int]] = [[] for _ in range(count)]
    for row, image in enumerate(examples.image):
        if told[image // group]:
            rows[turn[image % units]].append(row)
    wrong = int((~torch.isfinite(scored.advantages_PK)).sum())
    sizes = {f"{number:06d}": float(len(part)) for number, part in enumerate(rows)}
    sizes = parts.processes.sums({**sizes, "not finite": float(wrong)})
    if sizes.pop("not finite"):
        raise NonFinite("an advantage is not finite, though every score is; the step was refused")
    for part, size in zip(rows, sizes.values(), strict=True):
        if size:  # else no process has an example: an optimiser's step on nothing would still move the weights
            yield examples.select(part), int(size)


def _reward_metrics(rewards_PK: Tensor, valid_PK: Tensor) -> dict[str, float]:
    """Return what the scores of a step say, by the names that TRL's users know."""
    values = rewards_PK[valid_PK]
    return {
        "reward": float(values.mean()),
        "reward_p10": float(values.quantile(0.1)),
        "reward_p90": float(values.quantile(0.9)),
        "reward_std": float(advantages.group_std(rewards_PK, valid_PK).mean()),
        "frac_reward_zero_std": float(advantages.degenerate(rewards_PK, valid_PK).float().mean()),
        "reward_failures": float((~valid_PK).sum()),
    }


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

        def write() -> None:
            row, alarms = keep_evaluation(run.folder, parts.config, parts.policy.generator, evaluation, done)
            parts.evaluations.add({"step": done, **row})
            parts.processes.accelerator.log({f"evaluation/{name}": value for name, value in row.items()}, step=done)
            raised.extend(alarms)
            refresh(run.folder)

        parts.processes.written(write)
    for alarm in raised:
        say(f"ALARM after step {done}, {alarm.name}: {alarm.seen}")
    return raised
