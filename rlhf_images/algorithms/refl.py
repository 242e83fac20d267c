"""ReFL (Xu et al. 2023, "ImageReward"): the reward of a one-step prediction from a late, random time.

From a random one of the late sampling steps the clean picture is predicted at once, decoded and scored; the gradient
passes through this single prediction.

Where we differ from the authors' code: sampling goes on to the end, so that metrics show finished pictures; the margin
of their ReLU is a setting, for it hangs on the reward's unit.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch

from ..config import Fraction
from ..generators import Generator
from ..randomness import Randomness
from ..sampling import Rollout
from .base import Scored
from .direct import Chain, DirectBackpropagation


@final
@dataclass(frozen=True)
class ReFL(DirectBackpropagation):
    """Hyperparameters of ReFL; the defaults are the authors' (steps 30 to 39 of 40)."""

    name: Literal["refl"] = "refl"
    earliest: Fraction = 0.75
    """The random step lies after this share of the schedule; before it a one-step prediction is a blur."""

    def begins(self, steps: int) -> range:
        """Return the late steps."""
        return range(min(int(self.earliest * steps), steps - 1), steps)

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Chain:
        """Return each picture's latents at a late random step, to be finished in one."""
        del scored, generator
        steps = rollout.times.shape[1] - 1
        late = self.begins(steps)
        step = late.start + (randomness.uniform("refl step", rollout.index) * len(late)).long()
        row = torch.arange(len(step))
        times = torch.stack([rollout.times[row, step], rollout.times[:, -1]], 1).to(rollout.x)
        return Chain(rollout.index, rollout.prompts, rollout.latents(row, step), times)
