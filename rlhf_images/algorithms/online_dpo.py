"""Online DPO: Diffusion-DPO (Wallace et al. 2024) between the best and the worst picture of each group.

The denoising error, less the reference's, shall fall on the winner more than on the loser, at the same time and noise.
Groups without a difference give no pair. Where we differ from online variants elsewhere: the loser comes from whichever
process drew it, so a group may straddle processes, and a tie is no pair instead of an arbitrary one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast, final

import torch
from torch import Tensor

from ..config import Count, Positive
from ..generators import Generator
from ..math import objectives
from ..math.advantages import degenerate
from ..math.path import Prediction
from ..randomness import Randomness
from ..reward import Reward
from ..sampling import Rollout, sample
from ..snapshots import Snapshots
from .base import Algorithm, Examples, Scored
from .forward_process import denoising_error, noised

Noise = tuple[Tensor, Tensor]
"""``eps (N, …)`` and the times ``t (N,)`` that it noises to."""
Measure = Callable[[Prediction, Tensor, Tensor, Tensor], Tensor]
"""``(prediction, x0, eps, t) -> (N,)``: a denoising error."""


@final
@dataclass(frozen=True)
class NoisedPairs(Examples):
    """Winners ``x0_won (N, …)`` and losers ``x0_lost`` of a prompt, to be noised by the same ``eps`` at ``t (N,)``."""

    image: list[int]
    prompts: list[str]
    x0_won: Tensor
    x0_lost: Tensor
    eps: Tensor
    t: Tensor


@final
@dataclass(frozen=True)
class OnlineDPO(Algorithm):
    """Hyperparameters of online Diffusion-DPO."""

    within_groups: ClassVar[bool] = True

    name: Literal["online_dpo"] = "online_dpo"
    beta: Positive = 100.0
    """How sharply a difference in error counts: the weight of a KL to the reference. Errors are means over elements."""
    times_per_image: Count = 4
    """Noisy times learnt from each pair, stratified over the sampling schedule."""

    def snapshots(self) -> tuple[str, ...]:
        """Return the reference."""
        return ("reference",)

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
        return sample(generator, prompts, index, randomness, micro_size)

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> NoisedPairs:
        """Return the pairs whose winner this process drew, each at `times_per_image` times."""
        best, worst = _best_and_worst(scored.rewards_PK, scored.valid_PK)
        place = {image: row for row, image in enumerate(scored.mine)}
        lost_here = [pair for pair, image in enumerate(worst) if image in place]
        lost = scored.gather(rollout.x0[[place[worst[pair]] for pair in lost_here]], lost_here, len(worst))
        won_here = [pair for pair, image in enumerate(best) if image in place]
        won = rollout.select([place[best[pair]] for pair in won_here])
        number = self.times_per_image
        batch = noised(won, torch.ones(len(won_here)), generator, randomness, number)
        return NoisedPairs(
            image=batch.image,
            prompts=batch.prompts,
            x0_won=batch.x0,
            x0_lost=lost[won_here].to(batch.x0).repeat_interleave(number, 0),
            eps=batch.eps,
            t=batch.t,
        )

    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return Diffusion-DPO's loss, and ``dpo_accuracy``: whether the winner's error fell more than the loser's."""
        del reward
        batch = cast(NoisedPairs, examples)
        sides = (batch.x0_won, batch.x0_lost)
        measure = partial(denoising_error, generator.path)
        won, lost = error_changes(generator, snapshots, batch.prompts, sides, (batch.eps, batch.t), measure)
        loss = objectives.diffusion_dpo(won, lost, self.beta)
        return loss, {"dpo_accuracy": (won < lost).to(loss.dtype)}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Do nothing."""


def error_changes(
    generator: Generator,
    snapshots: Snapshots,
    prompts: Sequence[str],
    sides: tuple[Tensor, Tensor],
    noise: Noise,
    measure: Measure,
) -> tuple[Tensor, Tensor]:
    """Return the errors ``(N,)`` by ``measure`` on the pictures ``x0 (N, …)`` of both sides, less the reference's.

    Both sides of a pair are noised by the same ``eps`` to the same ``t``.
    """
    eps, t = (torch.cat([part, part]) for part in noise)
    both, x0 = [*prompts, *prompts], torch.cat(sides)
    x = generator.path.add_noise(x0, eps, t)
    with snapshots.use("reference"):
        reference = measure(generator.predict(both, x, t), x0, eps, t)
    first, second = (measure(generator.predict(both, x, t), x0, eps, t) - reference).chunk(2)
    return first, second


def _best_and_worst(rewards_PK: Tensor, valid_PK: Tensor) -> tuple[list[int], list[int]]:
    """Return the global indices of the best and the worst valid picture of each group in which they differ."""
    size = rewards_PK.shape[1]
    groups = (~degenerate(rewards_PK, valid_PK)).nonzero()[:, 0]
    best = rewards_PK.masked_fill(~valid_PK, -torch.inf).argmax(1)
    worst = rewards_PK.masked_fill(~valid_PK, torch.inf).argmin(1)
    return (groups * size + best[groups]).tolist(), (groups * size + worst[groups]).tolist()
