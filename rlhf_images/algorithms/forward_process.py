"""What the forward-process algorithms share: learn from finished pictures under fresh noise.

No likelihoods, no stored trajectories, any solver, any noise path; a rollout costs what sampling costs. The base must
denoise its own samples, as any trained network does.
"""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from ..config import Count
from ..generators import Generator
from ..math import objectives
from ..math.path import Path, Prediction
from ..randomness import Randomness
from ..reward import Reward
from ..sampling import Rollout, sample
from ..snapshots import Snapshots
from .base import Algorithm, Examples, Scored


@final
@dataclass(frozen=True)
class Noised(Examples):
    """Clean ``x0 (N, …)`` noised by ``eps`` to ``x`` at ``t (N,)``; ``weight (N,)`` is what the scores say of each."""

    image: list[int]
    prompts: list[str]
    x0: Tensor
    eps: Tensor
    x: Tensor
    t: Tensor
    weight: Tensor


@dataclass(frozen=True)
class ForwardProcess(Algorithm):
    """Abstract: sampling along the ODE and noised examples; what is done with them is `noised_loss`."""

    times_per_image: Count = 4
    """Noisy times learnt from each picture, stratified over the sampling schedule."""

    def rollout(
        self,
        generator: Generator,
        snapshots: Snapshots,
        prompts: Sequence[str],
        index: Sequence[int],
        randomness: Randomness,
        micro_size: int,
    ) -> Rollout:
        """Return pictures drawn along the ODE, by the behaviour policy where there is one."""
        lagging = "behaviour" in self.snapshots()
        with snapshots.use("behaviour") if lagging else nullcontext():
            return sample(generator, prompts, index, randomness, micro_size)

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Noised:
        """Return each picture's final latents under fresh noise at `times_per_image` times."""
        return noised(rollout, self.weights(scored), generator, randomness, self.times_per_image)

    def weights(self, scored: Scored) -> Tensor:
        """Return what the scores say of each of this process's pictures ``(B,)``: by default the advantage."""
        return scored.of_mine(scored.advantages_PK)

    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the algorithm's loss of noised pictures."""
        del reward
        return self.noised_loss(generator, snapshots, cast(Noised, examples))

    @abstractmethod
    def noised_loss(
        self, generator: Generator, snapshots: Snapshots, batch: Noised
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``(N,)`` of each example, with gradient, and metrics ``(N,)`` without."""


def noised(
    rollout: Rollout, weights: Tensor, generator: Generator, randomness: Randomness, times_per_image: int
) -> Noised:
    """Return ``times_per_image`` examples of each picture; the noise and times hang on its global index alone."""
    number, x0 = times_per_image, rollout.x0.repeat_interleave(times_per_image, 0)
    t = stratified(rollout.times[:, :-1], randomness.uniform("noised time", rollout.index, (number,)))
    eps = randomness.normal("noised noise", rollout.index, (number, *rollout.x0.shape[1:])).flatten(0, 1).to(x0)
    t = t.flatten().to(x0.device)
    return Noised(
        image=[i for i in rollout.index for _ in range(number)],
        prompts=[prompt for prompt in rollout.prompts for _ in range(number)],
        x0=x0,
        eps=eps,
        x=generator.path.add_noise(x0, eps, t),
        t=t,
        weight=weights.to(x0).repeat_interleave(number),
    )


def denoising_error(path: Path, prediction: Prediction, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return ``(N,)`` ‖v − v*‖², mean over elements, with v* the velocity from the true x0 and noise."""
    return objectives.squared_error(path.velocity(prediction, t), path.velocity(Prediction(x0, eps), t))


def output_error(generator: Generator, prediction: Prediction, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return ``(N,)`` the squared error of what the network itself says: eps, where it was trained to, else velocity.

    On a variance-preserving path the two differ by the factor alpha(t)², which is small where there is much noise.
    """
    if generator.schedule.output == "epsilon":
        return objectives.squared_error(prediction.eps, eps)
    return denoising_error(generator.path, prediction, x0, eps, t)


def distance(generator: Generator, snapshots: Snapshots, name: str, batch: Noised, new: Prediction) -> Tensor:
    """Return ``(N,)`` ‖v − v_name‖² between the policy and a snapshot: up to a factor their KL along the path."""
    with snapshots.use(name):
        other = generator.predict(batch.prompts, batch.x, batch.t)
    velocity, anchor = (generator.path.velocity(prediction, batch.t) for prediction in (new, other))
    return objectives.squared_error(velocity, anchor)


def stratified(times: Tensor, uniform: Tensor) -> Tensor:
    """Return one time in each of S equal parts of the schedule ``times (B, T)``, at ``uniform (B, S)`` within it."""
    strata = torch.arange(uniform.shape[1])
    position = (strata + uniform) / uniform.shape[1] * (times.shape[1] - 1)
    left = position.long().clamp(max=max(times.shape[1] - 2, 0))
    right = (left + 1).clamp(max=times.shape[1] - 1)
    times = times.cpu()
    return torch.lerp(times.gather(1, left), times.gather(1, right), position - left)
