"""DiffusionNFT (Zheng et al. 2025, "Online Diffusion Reinforcement with Forward Process").

Sample with any solver from the behaviour policy, without guidance; noise the finished latents afresh; and pull an
implicit positive policy towards the good ones and an implicit negative policy towards the bad ones. No likelihoods, no
stored trajectories, any noise path.

Where we differ from the authors' code: times are stratified over the sampling schedule instead of being its points, so
that a few a picture cover it; and everything is written in x0, which is the same thing (see `objectives.nft`) and holds
on a variance-preserving path too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from torch import Tensor

from ..config import Count, Fraction, Positive, Weight
from ..generators import Generator
from ..math import objectives
from ..randomness import Randomness
from ..sampling import Rollout, sample
from ..snapshots import Snapshots
from .base import Algorithm, Examples


@final
@dataclass(frozen=True)
class NFTExamples(Examples):
    """Noisy latents ``x (N, …)`` at ``t (N,)`` of clean ``x0 (N, …)``, good ones with probability ``r (N,)``."""

    image: list[int]
    prompts: list[str]
    x0: Tensor
    x: Tensor
    t: Tensor
    r: Tensor


@final
@dataclass(frozen=True)
class NFT(Algorithm):
    """Hyperparameters of DiffusionNFT; the defaults are the authors'."""

    name: Literal["nft"] = "nft"
    beta: Positive = 1.0
    """How far the implicit policies lie from the behaviour policy; smaller is a stronger guidance (0.1 for OCR)."""
    advantage_clip: Positive = 5.0
    """Advantages beyond this count as this; it also scales the policy loss against the KL."""
    kl_weight: Weight = 1e-4
    """Of the squared distance in velocity to the reference. 0 saves a forward pass."""
    times_per_image: Count = 4
    """Noisy times learnt from each picture; the authors use every sampling step."""
    decay_rate: Weight = 0.001
    """The behaviour policy keeps min(rate·step, max) of itself after each step: on-policy at first, lagging later."""
    decay_max: Fraction = 0.5
    """See `decay_rate`."""

    def snapshots(self) -> tuple[str, ...]:
        """Return the behaviour policy, and the reference where the KL is on."""
        return ("behaviour", "reference") if self.kl_weight else ("behaviour",)

    def rollout(
        self,
        generator: Generator,
        snapshots: Snapshots,
        prompts: Sequence[str],
        index: Sequence[int],
        randomness: Randomness,
        micro_size: int,
    ) -> Rollout:
        """Return pictures drawn by the behaviour policy along the ODE."""
        with snapshots.use("behaviour"):
            return sample(generator, prompts, index, randomness, micro_size)

    def examples(
        self, rollout: Rollout, advantages: Tensor, generator: Generator, randomness: Randomness
    ) -> NFTExamples:
        """Return each picture's final latents under fresh noise at `times_per_image` times."""
        number = self.times_per_image
        t = _stratified(rollout.times[:, :-1], randomness.uniform("nft time", rollout.index, (number,)))
        noise = randomness.normal("nft noise", rollout.index, (number, *rollout.x0.shape[1:])).flatten(0, 1)
        x0 = rollout.x0.repeat_interleave(number, 0)
        r = objectives.optimality(advantages, self.advantage_clip).to(x0.device)
        t = t.flatten().to(x0.device)
        return NFTExamples(
            image=[i for i in rollout.index for _ in range(number)],
            prompts=[prompt for prompt in rollout.prompts for _ in range(number)],
            x0=x0,
            x=generator.path.add_noise(x0, noise.to(x0), t),
            t=t,
            r=r.repeat_interleave(number),
        )

    def loss(self, generator: Generator, snapshots: Snapshots, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """Return clip·nft + kl_weight·‖v − v_ref‖², and ``policy_loss`` and ``kl`` apart."""
        batch = cast(NFTExamples, examples)
        with snapshots.use("behaviour"):
            behaviour = generator.predict(batch.prompts, batch.x, batch.t)
        new = generator.predict(batch.prompts, batch.x, batch.t)
        policy = self.advantage_clip * objectives.nft(new.x0, behaviour.x0, batch.x0, batch.r, self.beta)
        if not self.kl_weight:
            return policy, {"policy_loss": policy.detach()}
        with snapshots.use("reference"):
            reference = generator.predict(batch.prompts, batch.x, batch.t)
        velocity, anchor = (generator.path.velocity(prediction, batch.t) for prediction in (new, reference))
        kl = objectives.squared_error(velocity, anchor)
        return policy + self.kl_weight * kl, {"policy_loss": policy.detach(), "kl": kl.detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Let the behaviour policy follow."""
        snapshots.move("behaviour", keep=min(self.decay_rate * step, self.decay_max))


def _stratified(times: Tensor, uniform: Tensor) -> Tensor:
    """Return one time in each of S equal parts of the schedule ``times (B, T)``, at ``uniform (B, S)`` within it."""
    strata = torch.arange(uniform.shape[1])
    position = (strata + uniform) / uniform.shape[1] * (times.shape[1] - 1)
    left = position.long().clamp(max=max(times.shape[1] - 2, 0))
    right = (left + 1).clamp(max=times.shape[1] - 1)
    times = times.cpu()
    return torch.lerp(times.gather(1, left), times.gather(1, right), position - left)
