"""DRaFT-LV (Clark et al. 2024): DRaFT-1 of lower variance.

The finished picture is noised again to the last noisy time, n times, and each time denoised by one step with gradient:
n + 1 cheap estimates for one expensive picture.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch

from ..config import Count
from ..generators import Generator
from ..randomness import Randomness
from ..sampling import Rollout
from .base import Scored
from .direct import Chain, DirectBackpropagation


@final
@dataclass(frozen=True)
class DRaFTLV(DirectBackpropagation):
    """Hyperparameters of DRaFT-LV; the default is the authors'."""

    name: Literal["draft_lv"] = "draft_lv"
    noisings: Count = 2
    """n: how often a picture is noised again."""

    def begins(self, steps: int) -> range:
        """Return the last step's beginning."""
        return range(steps - 1, steps)

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Chain:
        """Return each picture's latents before the last step, as sampled and n times noised again."""
        del scored
        number = self.noisings
        last = rollout.times[:, -2:].to(rollout.x0)
        noise = randomness.normal("draft noise", rollout.index, (number, *rollout.x0.shape[1:])).to(rollout.x0)
        x0 = rollout.x0.repeat_interleave(number, 0)
        again = generator.path.add_noise(x0, noise.flatten(0, 1), last[:, 0].repeat_interleave(number))
        return Chain(
            image=[*rollout.index, *(i for i in rollout.index for _ in range(number))],
            prompts=[*rollout.prompts, *(prompt for prompt in rollout.prompts for _ in range(number))],
            x=torch.cat([rollout.x[:, 0], again]),
            times=torch.cat([last, last.repeat_interleave(number, 0)]),
        )
