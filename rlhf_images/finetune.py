"""Stage `finetune`: the loop. Sample, score, compare within groups, learn, and again; blind to algorithm and model.

Legend: a step draws P prompts, each K times (a group); picture i of a step is draw i % K of prompt i // K, and every
process has a contiguous slice of these global indices. Sizes are totals over all processes, but for `micro_size`, which
changes nothing except memory.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import torch
from safetensors.torch import save
from torch import Tensor

from .algorithms import NFT, AnyAlgorithm, Examples
from .config import Count, Fraction, NonNegative
from .errors import BadInput, NonFinite, RewardFailed, Stop
from .evaluator import EvaluationConfig, Evaluator
from .files import write_atomically
from .generators import Generator, GeneratorConfig
from .generators.lora import LoraConfig, make_trainable, save_trained
from .interruption import Interruption
from .math import advantages
from .policy import OptimizerConfig, Policy
from .processes import Processes
from .progress import progress, say
from .prompts import PromptStream, read_prompts
from .randomness import Randomness
from .reward import Reward
from .runs import Run
from .sampling import Rollout
from .track import Log, save_grid

ADVANTAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "centred": advantages.centre,
    "leave_one_out": advantages.leave_one_out,
    "group_std": advantages.standardise,
    "global_std": lambda rewards_PK, valid_PK: advantages.standardise(rewards_PK, valid_PK, over_all=True),
}


@final
@dataclass(frozen=True)
class FinetuneConfig:
    """One run. The defaults are those of DiffusionNFT."""

    generator: GeneratorConfig
    """The pipeline that is tuned, and how it is called."""
    prompts: str | tuple[str, ...]
    """``digits``, a text file with one prompt a line, or a list."""
    reward: str
    """A folder written by `train-reward`, a name in the table of rewards, or ``module:attribute`` of your own."""
    out: str
    """Folder of the run."""
    evaluation: EvaluationConfig
    """What is looked at during the run and after it."""
    seed: NonNegative = 0
    """Of every random number of the training."""
    steps: Count = 100
    """Rounds of sampling and learning."""
    prompts_per_step: Count = 48
    """P, over all processes."""
    group_size: Count = 24
    """K pictures of each prompt, compared with one another."""
    updates_per_step: Count = 1
    """Optimiser steps on each round's pictures; divides the group size, so that each sees a share of every group."""
    micro_size: Count = 8
    """Pictures or examples in one forward pass on one process."""
    algorithm: AnyAlgorithm = field(default_factory=NFT)
    """Which objective, and its hyperparameters."""
    advantage: Literal["centred", "leave_one_out", "group_std", "global_std"] = "global_std"
    """How a picture is compared with its group."""
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """Adapters; null trains all weights."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    average_decay: Fraction = 0.0
    """Above 0, an exponential average of the weights over steps is what is evaluated and saved."""
    tolerated_failures: Fraction = 0.0
    """Share of a step's pictures whose reward may fail before the run stops; failed ones are masked, never scored 0."""
    checkpoint_every: Count = 20
    """Steps between checkpoints. Ctrl-C and SIGTERM always make one."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not go together."""
        if self.group_size % self.updates_per_step:
            raise ValueError(f"updates_per_step {self.updates_per_step} does not divide group_size {self.group_size}")
        if self.group_size < 2:
            raise ValueError("group_size 1 leaves nothing to compare a picture with; use 2 or more")


def finetune(config: FinetuneConfig, load_reward: Callable[[str], Reward]) -> None:
    """Tune a generator against a reward; ``load_reward`` gives the rewards that the config names."""
    processes = Processes()
    run = Run("finetune", config, config.out, writes=processes.is_main)
    if run.finished:
        return say(f"{config.out}: already tuned")
    total, group = config.prompts_per_step * config.group_size, config.group_size
    if total < processes.count:
        raise BadInput(
            f"{total} pictures a step are fewer than the {processes.count} processes; raise prompts_per_step"
        )
    stream = PromptStream(read_prompts(config.prompts), config.seed)
    reward = load_reward(config.reward).to(processes.device)
    judges = {name: load_reward(spec).to(processes.device) for name, spec in config.evaluation.judges.items()}
    evaluator = Evaluator(config.evaluation, {"reward": reward, **judges}, processes, config.micro_size)
    generator = Generator.load(config.generator, processes.device)
    make_trainable(generator, config.lora, config.seed)
    algorithm, averaged = config.algorithm, config.average_decay > 0
    names = (*algorithm.snapshots(), *(("average",) if averaged else ()))
    policy = Policy(generator, names, config.optimizer, processes)
    processes.wait()
    run.save()
    start = policy.restore(run.folder / "checkpoints")
    logs = [Log(run.folder / f"{name}.jsonl", writes=processes.is_main) for name in ("metrics", "evaluations")]
    for log in logs:
        log.rewind(start)
    metrics_log, evaluations_log = logs
    if start:
        say(f"{config.out}: continues after step {start}")
    else:
        _evaluate(policy, evaluator, evaluations_log, run.folder, 0)

    note: dict[str, str] = {}
    with Interruption() as interruption:
        for step in progress(range(start, config.steps), "finetune", config.steps, start, note):
            randomness = Randomness(config.seed, step)
            prompts = [prompt for prompt in stream.take(step, config.prompts_per_step) for _ in range(group)]
            mine = list(processes.mine(total))
            clock = _Clock()
            rollout = algorithm.rollout(
                generator, policy.snapshots, [prompts[i] for i in mine], mine, randomness, config.micro_size
            )
            clock.lap("sampling")
            try:
                rewards_PK, valid_PK = _scored(reward, rollout, mine, processes, config)
                clock.lap("scoring")
                advantages_PK = ADVANTAGES[config.advantage](rewards_PK, valid_PK)
                examples = algorithm.examples(rollout, advantages_PK.flatten()[mine], generator, randomness)
                sums: dict[str, float] = {}
                for update, size in _updates(examples, len(mine), config, randomness):
                    policy.update(algorithm, update, size, config.micro_size, sums)
            except Stop as stop:
                _keep_evidence(run.folder, step, rollout, processes)
                run.save()
                raise type(stop)(f"step {step}: {stop}; what led to it is in {run.folder / 'refused'}") from None
            algorithm.after_step(policy.snapshots, step)
            if averaged:
                policy.snapshots.move("average", config.average_decay)
            clock.lap("learning")

            interrupted = interruption.signal != 0 or processes.orphaned
            totals = processes.sums({**sums, "interrupted": float(interrupted), "examples": float(len(examples))})
            metrics = _metrics(rewards_PK, valid_PK, totals, clock, config)
            metrics_log.add({"step": step + 1, **metrics})
            note |= {"reward": f"{metrics['reward']:.3f}"}
            last = step + 1 == config.steps
            if last or (step + 1) % config.evaluation.every == 0:
                _evaluate(policy, evaluator, evaluations_log, run.folder, step + 1)
            if last or totals["interrupted"] or (step + 1) % config.checkpoint_every == 0:
                if processes.is_main:
                    policy.save(run.folder / "checkpoints", step + 1)
                run.save()
            if totals["interrupted"] and not last:
                raise interruption.stop(f"step {step + 1} is saved")

    if processes.is_main:
        with policy.kept():
            save_trained(generator, config.lora, run.folder)
    processes.wait()
    run.save(finished=True)
    return say(f"tuned weights saved to {config.out}")


def _scored(
    reward: Reward, rollout: Rollout, mine: list[int], processes: Processes, config: FinetuneConfig
) -> tuple[Tensor, Tensor]:
    """Return rewards and their validity ``(P, K)``, the same on every process. Stops on what must not be learnt from."""
    with torch.no_grad():
        scores = reward.score(images=rollout.images, prompts=rollout.prompts)
    finite = (torch.isfinite(rollout.images).flatten(1).all(1) & torch.isfinite(rollout.x0).flatten(1).all(1)).cpu()
    valid = (scores.valid & torch.isfinite(scores.mean)).cpu()
    columns = [scores.mean.cpu().float().where(valid, torch.zeros(len(mine))), valid.float(), finite.float()]
    gathered = processes.shared(torch.stack(columns, 1), mine, config.prompts_per_step * config.group_size)
    rewards_PK, valid_PK, finite_PK = (column.view(-1, config.group_size) for column in gathered.unbind(1))
    if not bool(finite_PK.all()):
        raise NonFinite(f"{int((finite_PK == 0).sum())} sampled pictures are not finite; the step was refused")
    failed = 1 - float(valid_PK.mean())
    if failed > config.tolerated_failures:
        raise RewardFailed(
            f"the reward failed on {failed:.1%} of the pictures (tolerated_failures is {config.tolerated_failures:.1%})"
        )
    return rewards_PK, valid_PK.bool()


def _updates(
    examples: Examples, pictures: int, config: FinetuneConfig, randomness: Randomness
) -> Iterator[tuple[Examples, int]]:
    """Yield this process's examples of each update and the update's total over all: equal shares of every group."""
    group, count = config.group_size, config.updates_per_step
    turn = {draw: i * count // group for i, draw in enumerate(randomness.permutation("updates", group))}
    size = len(examples) // pictures * config.prompts_per_step * group // count
    for number in range(count):
        rows = [row for row, image in enumerate(examples.image) if turn[image % group] == number]
        yield examples.select(rows), size


def _metrics(
    rewards_PK: Tensor, valid_PK: Tensor, totals: dict[str, float], clock: "_Clock", config: FinetuneConfig
) -> dict[str, float]:
    """Return a step's metrics, by the names that TRL's users know."""
    values = rewards_PK[valid_PK]
    learnt = {
        name: total / totals["examples"] for name, total in totals.items() if name not in ("interrupted", "examples")
    }
    return {
        "reward": float(values.mean()),
        "reward_p10": float(values.quantile(0.1)),
        "reward_p90": float(values.quantile(0.9)),
        "reward_std": float(rewards_PK.std(1, correction=0).mean()),
        "frac_reward_zero_std": float(advantages.degenerate(rewards_PK, valid_PK).float().mean()),
        "reward_failures": float((~valid_PK).sum()),
        **learnt,
        "lr": config.optimizer.lr,
        "images_per_second": rewards_PK.numel() / clock.total,
        **{f"seconds_{name}": spent for name, spent in clock.laps.items()},
    }


def _evaluate(policy: Policy, evaluator: Evaluator, log: Log, folder: Path, step: int) -> None:
    """Log the scores on the fixed prompts and seeds, with a grid of the pictures."""
    with policy.kept():
        evaluation = evaluator.evaluate(policy.generator, evaluator.config.seeds_per_prompt)
    log.add({"step": step, **evaluation.means()})
    if log.writes:
        save_grid(folder / "samples" / f"step_{step:06d}.png", evaluation.images, evaluation.prompts)


def _keep_evidence(folder: Path, step: int, rollout: Rollout, processes: Processes) -> None:
    """Write this process's prompts, pictures and latents of a refused step."""
    place = folder / "refused"
    place.mkdir(parents=True, exist_ok=True)
    name = f"step_{step:06d}_process_{processes.accelerator.process_index}"
    tensors = {"images": rollout.images, "x": rollout.x, "times": rollout.times}
    write_atomically(place / f"{name}.safetensors", save({key: v.cpu().contiguous() for key, v in tensors.items()}))
    write_atomically(place / f"{name}.json", json.dumps({"prompts": rollout.prompts, "index": rollout.index}).encode())


@final
class _Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap to ``name``."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    @property
    def total(self) -> float:
        """Return the sum of the laps."""
        return sum(self.laps.values())
