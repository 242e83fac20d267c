"""Stage `finetune`: the loop. Sample, score, compare within groups, learn, and again; blind to algorithm and model.

Legend: a step draws P prompts, each K times (a group); picture i of a step is draw i % K of prompt i // K, and every
process has a contiguous slice of these global indices. Sizes are totals over all processes, but for `micro_size`, which
changes nothing except memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from .algorithms import Examples, Scored
from .errors import BadInput, NonFinite, RewardFailed, Stop
from .evaluator import Evaluator
from .finetune_config import FIELDS, FinetuneConfig
from .generators import Generator
from .generators.lora import check_trainable, make_trainable
from .math import advantages
from .policy import Policy
from .processes import Processes
from .prompt_statistics import PromptStatistics
from .prompts import PromptStream, read_prompts
from .randomness import Randomness
from .reward import Reward, RewardSpec, Scores
from .runs import Run
from .sampling import Rollout
from .scoring import gathered_scores
from .track import Clock, Log, check_trackers, keep_evidence
from .tuning import Tuning, ended, rounds

ADVANTAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "centred": advantages.centre,
    "leave_one_out": advantages.leave_one_out,
    "group_std": advantages.standardise,
    "global_std": lambda rewards_PK, valid_PK: advantages.standardise(rewards_PK, valid_PK, over_all=True),
}


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
        return ended(run, config.steps)
    return rounds(processes, partial(_assembled, config, load_reward, processes, run), "reward")


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
    processes.shard(generator, stream.prompts[0])
    names = (*config.algorithm.snapshots(), *(("average",) if config.average_decay else ()))
    policy = Policy(generator, names, config.optimizer, processes)
    statistics = PromptStatistics(config.prompt_statistics)
    metrics, evaluations = (Log(run.folder / f"{name}.jsonl", writes=run.writes) for name in ("metrics", "evaluations"))
    return Parts(config, processes, run, reward, evaluator, policy, metrics, evaluations, stream, statistics)


def _rewarded(parts: Parts, rollout: Rollout, prompts: list[str]) -> Scores:
    """Return the scores of all the step's pictures, the same on every process; stop on what must not be learnt."""
    config, processes, index, total = parts.config, parts.processes, rollout.index, len(prompts)
    finite = torch.isfinite(rollout.images).flatten(1).all(1) & torch.isfinite(rollout.x0).flatten(1).all(1)
    whole = int(processes.shared(finite.float(), index, total).sum())
    if whole < total:
        raise NonFinite(
            f"{total - whole} sampled pictures are not finite; the step was refused; try generator.dtype: float32"
        )
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
