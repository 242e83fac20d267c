"""Stage `dpo`: Diffusion-DPO (Wallace et al. 2024) offline, straight from the votes. Nothing is drawn to learn from.

Each step takes pairs that people decided, noises both pictures by the same eps to the same time, and lets the denoising
error, less the reference's, fall more on the chosen one than on the other. Votes that disagree count both ways. No
reward model is learnt; the config's ``reward`` only watches the evaluations.

Where we differ from the authors' code: errors are means over latent elements, so β is that of the paper's code and D
times that of its formula; times are stratified over the sampling schedule; our own pictures are not encoded again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor

from .algorithms import Examples, Objective
from .algorithms.forward_process import output_error, stratified
from .algorithms.online_dpo import error_changes
from .changes import Fields
from .config import Count, Positive
from .errors import BadInput, Stop
from .evaluator import Evaluator
from .files import write_json
from .finetune_config import TuningConfig
from .generators import Generator
from .generators.lora import check_trainable, make_trainable
from .lessons import Lessons
from .math import objectives
from .policy import Policy
from .preferences.events import Whose
from .preferences.folder import pairs_of
from .processes import Processes
from .prompts import PromptStream
from .randomness import Randomness
from .reward import Reward, RewardSpec
from .runs import Run
from .snapshots import Snapshots
from .track import Clock, Log, check_trackers
from .tuning import Tuning, ended, rounds


@final
@dataclass(frozen=True, kw_only=True)
class DPOConfig(TuningConfig):
    """One run. ``reward`` teaches nothing here: it scores the evaluations, and decides them where no judge does."""

    pairs: str
    """The folder of labelled pairs, or of pictures by prompt."""
    store: str | None = None
    """The database of the votes, where that is not the folder's own."""
    annotator: Whose = None
    """Whose votes teach, a name or a list of them; everybody's where not given."""
    beta: Positive = 5000.0
    """The weight of the KL to the reference; errors are means over elements. Published: 5000 (SD1.5), 2000 to 5000."""
    pairs_per_step: Count = 64
    """Pairs of an optimiser step, over all processes."""
    times_per_pair: Count = 1
    """Noisy times learnt from each of them, stratified over the sampling schedule."""


FIELDS = Fields(
    frozen="""
        generator.path generator.steps generator.guidance generator.negative_prompt generator.embedded_guidance
        generator.height generator.width generator.dtype generator.call
        pairs annotator beta pairs_per_step times_per_pair reward seed
        lora lora.rank lora.alpha lora.target_modules
        optimizer.betas optimizer.weight_decay average_decay
        evaluation.prompts evaluation.seed evaluation.seeds_per_prompt evaluation.kept_prompts evaluation.kept_seeds
    """,
    tracked="""
        steps optimizer.lr optimizer.max_grad_norm
        evaluation.judges evaluation.deciding evaluation.final_seeds_per_prompt evaluation.other_guidance
        generator.compile generator.attention
    """,
    free="""
        out store micro_size checkpoint_every evaluation.every trackers stop_on_alarm
        generator.prompt_cache generator.text_encoders generator.offload_vae generator.recompute_activations
    """,
)
"""What may change when a run continues; the votes themselves may not."""


@final
@dataclass(frozen=True)
class Voted(Examples):
    """Clean ``left`` and ``right (N, …)``, to be noised by ``eps`` to ``t (N,)``; ``share (N,)`` of votes for left."""

    image: list[int]
    prompts: list[str]
    left: Tensor
    right: Tensor
    eps: Tensor
    t: Tensor
    share: Tensor
    weight: Tensor


@final
@dataclass(frozen=True)
class DiffusionDPO(Objective):
    """The loss of an example: weight·`objectives.voted_dpo`."""

    beta: float

    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, with ``dpo_accuracy`` and by how much the errors of winners and losers changed."""
        del reward
        batch = cast(Voted, examples)
        sides, noise = (batch.left, batch.right), (batch.eps, batch.t)
        measure = partial(output_error, generator)
        left, right = error_changes(generator, snapshots, batch.prompts, sides, noise, measure)
        loss = batch.weight * objectives.voted_dpo(left, right, batch.share, self.beta)
        won, lost = left.detach().where(batch.share > 0.5, right), right.detach().where(batch.share > 0.5, left)
        told = {"dpo_accuracy": (won < lost).to(loss.dtype), "error_change/won": won, "error_change/lost": lost}
        return loss, {name: values.detach() for name, values in told.items()}


@final
@dataclass(frozen=True)
class Offline(Tuning):
    """What a run on pairs works with."""

    config: DPOConfig
    lessons: Lessons
    stream: PromptStream
    """Of pair ids."""
    times: Tensor

    def learn(self, step: int) -> dict[str, float]:
        """Take one optimiser step on the step's pairs."""
        config, processes, clock, sums = self.config, self.processes, Clock(), dict[str, float]()
        drawn = self.stream.take(step, config.pairs_per_step)
        mine = list(processes.mine(len(drawn)))
        examples = self.examples([drawn[i] for i in mine], mine, Randomness(config.seed, step))
        clock.lap("encoding")
        total = config.pairs_per_step * config.times_per_pair
        try:
            self.policy.update(DiffusionDPO(config.beta), self.reward, examples, total, config.micro_size, sums)
            self.policy.check()
        except Stop:
            name = f"step_{step:06d}_process_{processes.accelerator.process_index}.json"
            (self.run.folder / "refused").mkdir(parents=True, exist_ok=True)
            write_json(self.run.folder / "refused" / name, {"pairs": [drawn[i] for i in mine]})
            raise
        self.policy.average(config.average_decay)
        clock.lap("learning")
        learnt = {name: value / total for name, value in processes.sums(sums).items()}
        return {**learnt, "lr": config.optimizer.lr, **clock.metrics(2 * config.pairs_per_step)}

    def examples(self, ids: list[str], places: list[int], randomness: Randomness) -> Voted:
        """Return `times_per_pair` examples of each pair; noise and times hang on its place in the step alone."""
        generator, number = self.policy.generator, self.config.times_per_pair
        voted = [self.lessons.by_id[name] for name in ids]
        left, right = self.lessons.latents(generator, voted, self.config.micro_size)
        shape = (number, *left.shape[1:])
        t = stratified(self.times[:-1].expand(len(ids), -1), randomness.uniform("pair time", places, (number,)))
        return Voted(
            image=[place for place in places for _ in range(number)],
            prompts=[one.pair.prompt for one in voted for _ in range(number)],
            left=left.repeat_interleave(number, 0),
            right=right.repeat_interleave(number, 0),
            eps=randomness.normal("pair noise", places, shape).flatten(0, 1).to(left),
            t=t.flatten().to(left),
            share=torch.tensor([one.preference for one in voted]).repeat_interleave(number).to(left),
            weight=torch.tensor([one.pair.weight for one in voted]).repeat_interleave(number).to(left),
        )

    def state(self) -> dict[str, Any]:
        """Return nothing: which pairs a step takes is a function of the seed."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def dpo(config: DPOConfig, load_reward: Callable[[RewardSpec], Reward]) -> None:
    """Tune a generator on labelled pairs; ``load_reward`` gives the rewards that watch the evaluations."""
    processes = Processes()
    inputs = (config.generator.path, config.pairs)
    run = Run("dpo", config, config.out, inputs=inputs, fields=FIELDS, writes=processes.is_main)
    if run.finished and "steps" not in run.changed:
        return ended(run, config.steps)
    return rounds(processes, partial(_assembled, config, load_reward, processes, run), "dpo_accuracy")


def _assembled(
    config: DPOConfig, load_reward: Callable[[RewardSpec], Reward], processes: Processes, run: Run
) -> Offline:
    """Return everything that the config names, loaded; refuses what does not go together before anything is written."""
    check_trackers(config.trackers)
    if config.pairs_per_step < processes.count:
        raise BadInput(f"fewer pairs a step than the {processes.count} processes; raise pairs_per_step")
    check_trainable(config.generator, config.lora)
    lessons = Lessons(pairs_of(config.pairs, config.store), config.annotator)
    if run.record.get("votes", lessons.hash) != lessons.hash:
        raise BadInput(f"{config.pairs}: its votes have changed since this run began; choose another 'out'")
    run.record["votes"] = lessons.hash
    rewards = {"reward": config.reward, **config.evaluation.judges}
    judges = {name: load_reward(spec).to(processes.device) for name, spec in rewards.items()}
    evaluator = Evaluator(config.evaluation, judges, processes, config.micro_size, run.folder / "refused")
    generator = Generator.load(config.generator, processes.device)
    generator.remember([*lessons.prompts, *evaluator.prompts])
    make_trainable(generator, config.lora, config.seed)
    times = generator.times(lessons.prompts[0]).cpu()
    processes.shard(generator, lessons.prompts[0])
    names = ("reference", *(("average",) if config.average_decay else ()))
    policy = Policy(generator, names, config.optimizer, processes)
    metrics, evaluations = (Log(run.folder / f"{name}.jsonl", writes=run.writes) for name in ("metrics", "evaluations"))
    return Offline(
        config, processes, run, judges["reward"], evaluator, policy, metrics, evaluations,
        lessons, PromptStream(list(lessons.by_id), config.seed), times,
    )  # fmt: skip
