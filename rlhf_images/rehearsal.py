"""A rehearsal: the loop's own code, once, on a pipeline without weights; its arithmetic and memory are counted.

Nothing here knows a model or an algorithm. What is counted is what `finetune` would run: the same rollout, the same
examples, the same update, on one micro-batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

import torch
from huggingface_hub import constants
from torch import Tensor, nn

from .algorithms import Scored
from .batch import Batch
from .errors import BadInput, Stop
from .finetune_config import FinetuneConfig
from .generators import Generator
from .generators.blueprint import blueprint
from .generators.lora import check_trainable, make_trainable
from .meter import META, Meter, Work
from .policy import Policy
from .processes import Processes
from .prompts import read_prompts
from .randomness import Randomness
from .reference import adopt
from .reward import Capabilities, Reward, RewardSpec, Scores, scores_of

LONG_PROMPT = " ".join(["word"] * 60)
"""What a picture's prompt is taken to be where the config's are not at hand."""


@final
@dataclass(frozen=True)
class Rehearsal:
    """What was counted: `Work` and bytes of ``micro`` pictures at a time. Bytes are of one process."""

    micro: int
    prediction: Work
    """One forward of the denoiser for one picture, guidance included."""
    encoding: Work
    """The text encoders, once for each prompt of a run."""
    sampling: Work
    """The rollout of ``micro`` pictures, but for their decoding."""
    decoding: Work
    scoring: Work | None
    """None where the reward is not at hand, or does not run without values."""
    learning: Work
    """One update on ``learnt`` examples, forward and backward, every snapshot's opinion included."""
    learnt: int
    examples_per_picture: float
    weights: dict[str, int]
    """Bytes of each part of the pipeline, without what is trained."""
    reward: int
    trained: int
    """Numbers that are trained; in float32, as are their gradients, moments and snapshots."""
    snapshots: tuple[str, ...]
    picture: int
    """Bytes that one picture's rollout holds until the step ends."""
    example: int
    sampling_peak: int
    """Bytes that come and go while ``micro`` pictures are sampled, decoded and scored."""
    decoding_peak: int
    """Of these, bytes that come and go while they are decoded."""
    learning_peak: int
    """Bytes that come and go in a forward and backward of ``learnt`` examples: its activations."""
    assumptions: tuple[str, ...]


def rehearse(config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward], *, cpu: bool = False) -> Rehearsal:
    """Return what `finetune` with ``config`` would cost; reads configs and the reward, and no generator's weight.

    With ``cpu``, the bytes are those of a CPU, whose convolutions copy what they are given.
    """
    assumptions: list[str] = []
    here = replace(config.generator, text_encoders="keep", offload_vae=False, compile=None, attention=None)
    check_trainable(here, config.lora)
    pipe, missing = blueprint(replace(here, prompt_cache=None))
    if missing:
        assumptions.append(f"{', '.join(missing)}: files not at hand; a word is taken to be a token")
    generator = Generator(pipe, replace(here, prompt_cache=None))
    make_trainable(generator, config.lora, config.seed)
    reward = _reward(config, load_reward, assumptions)
    names = (*config.algorithm.snapshots(), *(("average",) if config.average_decay else ()))
    policy = Policy(generator, names, config.optimizer, Processes())
    laps = _Laps(cpu=cpu)
    return _counted(laps, config, generator, policy, reward, _prompts(config, assumptions), assumptions)


def _counted(
    laps: "_Laps",
    config: FinetuneConfig,
    generator: Generator,
    policy: Policy,
    reward: Reward | None,
    prompts: list[str],
    assumptions: list[str],
) -> Rehearsal:
    micro, randomness = len(prompts), Randomness(config.seed)
    with laps.meter:
        generator.encode_prompts(prompts)
        encoding = laps.next()
        rollout = config.algorithm.rollout(
            generator, policy.snapshots, prompts, list(range(micro)), randomness, config.micro_size
        )
        sampling, sampling_peak = laps.next(), laps.peak
        with torch.no_grad():
            generator.decode(prompts, rollout.x0)
            decoding, decoding_peak = laps.next(), laps.peak
            generator.predict(prompts[:1], rollout.x0[:1], rollout.times[:1, 0])
            prediction = laps.next()
        scoring = _scored(reward, rollout.images, prompts, assumptions)
        scoring_work, scoring_peak = laps.next(), laps.peak
        scored = made_up_scores(config, micro, policy.processes)
        every = config.algorithm.examples(rollout, scored, generator, randomness)
        examples = every.select(range(min(config.micro_size, len(every))))
        judge = reward or _Brightness()
        policy.update(config.algorithm, judge, examples, len(examples), config.micro_size, {})
        policy.optimizer.zero_grad()
        laps.next()
        policy.update(config.algorithm, judge, examples, len(examples), config.micro_size, {})
        learning, learning_peak = laps.next(), laps.peak
    trained = sum(parameter.numel() for parameter in policy.parameters.values())
    held = size_of(rollout)
    return Rehearsal(
        micro=micro,
        prediction=prediction,
        encoding=encoding,
        sampling=sampling - decoding,
        decoding=decoding,
        scoring=scoring_work if scoring else None,
        learning=learning,
        learnt=len(examples),
        examples_per_picture=len(every) / micro,
        weights={name: size for name, size in _parts(generator, policy).items() if size},
        reward=_weights_of(reward),
        trained=trained,
        snapshots=tuple(policy.snapshots.copies),
        picture=held // micro,
        example=size_of(every) // max(len(every), 1),
        sampling_peak=max(sampling_peak - held, decoding_peak, scoring_peak),
        decoding_peak=decoding_peak,
        learning_peak=max(learning_peak - 4 * trained, 0),
        assumptions=tuple(assumptions),
    )


@final
class _Laps:
    """Reads a meter at the end of each part of the rehearsal."""

    def __init__(self, *, cpu: bool) -> None:
        self.meter = Meter(cpu=cpu)
        self.peak = 0
        """Of the last part, above what was held when it began."""
        self._before, self._live = self.meter.work, 0

    def next(self) -> Work:
        """Return the work since the last call."""
        now = self.meter.work
        done = now - self._before
        self.peak = self.meter.peak - self._live
        self._before, self._live = now, self.meter.live
        self.meter.mark()
        return done


@final
class _Brightness(Reward):
    """Stands in for a differentiable reward that is not at hand."""

    can = Capabilities(differentiable=True)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the mean of all pixels."""
        del prompts
        return Scores.of(images.flatten(1).mean(1))


def _reward(
    config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward], assumptions: list[str]
) -> Reward | None:
    try:
        with _no_downloads():
            reward = load_reward(config.reward).to(META)
        adopt(reward, {name: [0.0, 1.0] for name in reward.unmeasured()})
        return reward
    except Stop as stop:
        assumptions.append(f"reward: left out, for it is not at hand ({stop})")
    except NotImplementedError:
        assumptions.append("reward: left out, for it does not run without values")
    return None


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Take from the hub's cache what is there, and nothing from the hub: weights are gigabytes."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _scored(reward: Reward | None, images: Tensor, prompts: list[str], assumptions: list[str]) -> bool:
    """Score pictures of noise, if the reward runs without its weights' values, and tell whether it did."""
    if reward is None:
        return False
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            scores_of(reward, noise, prompts, len(prompts), [0] * len(prompts))
    except Exception as error:  # anybody's code, on weights without values
        assumptions.append(f"reward: left out, for it does not run without values ({type(error).__name__})")
        return False
    return True


def made_up_scores(config: FinetuneConfig, pictures: int, processes: Processes) -> Scored:
    """Return scores in which every picture differs from the others of its group."""
    groups = -(-pictures // config.group_size)
    rewards_PK = (
        torch.linspace(1, -1, config.group_size).expand(groups, -1) if config.group_size > 1 else torch.ones(groups, 1)
    )
    return Scored(rewards_PK, torch.ones_like(rewards_PK).bool(), rewards_PK, list(range(pictures)), processes.shared)


def _prompts(config: FinetuneConfig, assumptions: list[str]) -> list[str]:
    """Return prompts for one micro-batch: the longest of the run's, which costs most."""
    try:
        longest = max(read_prompts(config.prompts), key=len)
    except BadInput:
        longest = LONG_PROMPT
        assumptions.append("prompts: the file is not at hand; one of 60 words is taken")
    pictures = min(config.micro_size, config.prompts_per_step * config.group_size)
    return [longest] * pictures


def _parts(generator: Generator, policy: Policy) -> dict[str, int]:
    trained = {id(parameter) for parameter in policy.parameters.values()}
    return {
        name: sum(t.nbytes for t in (*part.parameters(), *part.buffers()) if id(t) not in trained)
        for name, part in generator.pipe.components.items()
        if isinstance(part, nn.Module)
    }


def _weights_of(reward: Reward | None) -> int:
    modules = [value for value in vars(reward).values() if isinstance(value, nn.Module)] if reward else []
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))


def size_of(batch: Batch) -> int:
    """Return the bytes of a batch's tensors."""
    return sum(column.nbytes for column in vars(batch).values() if isinstance(column, Tensor))
