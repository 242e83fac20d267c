"""Who is examined: the parts of a run, loaded as the run would, and a few pictures that it drew."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch

from ..algorithms import Examples
from ..finetune_config import FinetuneConfig
from ..generators import Generator
from ..generators.lora import check_trainable, make_trainable
from ..policy import Policy
from ..processes import Processes
from ..prompts import read_prompts
from ..randomness import Randomness
from ..reference import adopt
from ..rehearsal import made_up_scores
from ..reward import Reward, RewardSpec
from ..sampling import Rollout

PICTURES = 4
STIR = 0.02
"""Spread of what is added to the weights, so that they are no longer those of the start."""


@final
@dataclass
class Patient:
    """A config and what it names."""

    config: FinetuneConfig
    prompts: list[str]
    """All that the run trains on and is evaluated on."""
    generator: Generator
    reward: Reward
    policy: Policy
    load_reward: Callable[[RewardSpec], Reward]

    @classmethod
    def admitted(cls, config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward]) -> "Patient":
        """Return the parts of ``config``. Raises `Stop` where one cannot be had."""
        processes = Processes()
        prompts = [*read_prompts(config.prompts), *read_prompts(config.evaluation.prompts)]
        config.algorithm.check_path(check_trainable(config.generator, config.lora))
        reward = load_reward(config.reward).to(processes.device)
        for spec in config.evaluation.judges.values():
            load_reward(spec)
        adopt(reward, {name: [0.0, 1.0] for name in reward.unmeasured()})
        generator = Generator.load(config.generator, processes.device)
        generator.remember(prompts)
        make_trainable(generator, config.lora, config.seed)
        policy = Policy(generator, config.algorithm.snapshots(), config.optimizer, processes)
        return cls(config, prompts, generator, reward, policy, load_reward)

    @property
    def drawn(self) -> list[str]:
        """Return the prompts of the pictures."""
        return [self.prompts[i % len(self.prompts)] for i in range(PICTURES)]

    @cached_property
    def rollout(self) -> Rollout:
        """Return a few pictures as the algorithm draws them."""
        index, randomness = list(range(PICTURES)), Randomness(self.config.seed)
        parts = (self.generator, self.policy.snapshots, self.drawn, index, randomness)
        return self.config.algorithm.rollout(*parts, self.config.micro_size)

    @cached_property
    def examples(self) -> Examples:
        """Return what the algorithm would learn from them, had they had different scores."""
        scored = made_up_scores(self.config, PICTURES, self.policy.processes)
        examples = self.config.algorithm.examples(self.rollout, scored, self.generator, Randomness(self.config.seed))
        return examples.select(range(min(len(examples), PICTURES)))

    @contextmanager
    def stirred(self) -> Iterator[None]:
        """Run with weights that have moved a little from the start, adapters' and all."""
        before = {name: parameter.detach().clone() for name, parameter in self.policy.parameters.items()}
        with torch.no_grad():
            for i, parameter in enumerate(self.policy.parameters.values()):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
                parameter.add_(STIR * noise.to(parameter))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.policy.parameters.items():
                    parameter.copy_(before[name])
