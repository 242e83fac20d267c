"""What the direct-backpropagation algorithms share: the reward's own gradient, through the decoder into the denoiser.

Fastest where the reward is differentiable, and fastest to exploit its blind spots: watch the held-out judges. A part of
the sampling chain is run again with gradient, decoded by the pipeline's own tail, and scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from ..generators import Generator
from ..math.kernels import ode
from ..math.path import over
from ..randomness import Randomness
from ..reward import Reward
from ..sampling import Rollout, sample
from ..snapshots import Snapshots
from .base import Algorithm, Examples


@final
@dataclass(frozen=True)
class Chain(Examples):
    """Latents ``x (N, …)`` at ``times[:, 0]``, from which the ODE is followed through the others ``(N, K + 1)``."""

    image: list[int]
    prompts: list[str]
    x: Tensor
    times: Tensor


@dataclass(frozen=True)
class DirectBackpropagation(Algorithm):
    """Abstract: sampling along the ODE, and the loss of a `Chain`; `examples` tells which part is run again."""

    compares: ClassVar[bool] = False
    differentiates_reward: ClassVar[bool] = True

    margin: float | None = None
    """Rewards beyond this earn nothing more (ReFL's ReLU); null has no bound."""

    def begins(self, steps: int) -> range:
        """Return at which latents, of a schedule of ``steps`` steps, `examples` may begin a chain."""
        del steps
        return range(0)

    def snapshots(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    def rollout(
        self,
        generator: Generator,
        snapshots: Snapshots,
        prompts: Sequence[str],
        index: Sequence[int],
        randomness: Randomness,
        micro_size: int,
    ) -> Rollout:
        """Return pictures drawn along the ODE."""
        del snapshots
        return sample(generator, prompts, index, randomness, micro_size, keep=self.begins(generator.config.steps))

    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the reward of where each chain ends, and ``reward_learnt``."""
        del snapshots
        batch = cast(Chain, examples)
        x = batch.x
        for t, t_next in pairwise(batch.times.T):
            x = ode(generator.path, generator.predict(batch.prompts, x, t), x, t, t_next).mean
        score = known(reward, generator.decode(batch.prompts, x), batch.prompts)
        return shortfall(score, self.margin), {"reward_learnt": score.detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Do nothing."""


def known(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the rewards ``(N,)`` of pictures, with gradient to them; 0, without, where the reward failed.

    A picture on which the reward failed may have a slope that is not a number; it ends here, so that the others learn.
    """
    scores = reward.score(images=images, prompts=prompts)
    if images.requires_grad:
        valid = over(scores.valid, images).to(images.device)
        images.register_hook(lambda slope: slope.where(valid, torch.zeros_like(slope)))
    return scores.mean.where(scores.valid, torch.zeros_like(scores.mean))


def shortfall(score: Tensor, margin: float | None) -> Tensor:
    """Return −score, or how far it stays below ``margin``."""
    return -score if margin is None else torch.relu(margin - score)
