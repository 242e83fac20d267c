"""DRaFT-K (Clark et al. 2024, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards").

The reward's gradient through the last K sampling steps; K = 1 is the paper's recommendation.

Where we differ from the authors' code: the chain is the pipeline's deterministic one.
"""

from dataclasses import dataclass
from typing import Literal, final

from ..config import Count
from ..generators import Generator
from ..randomness import Randomness
from ..sampling import Rollout
from .base import Scored
from .direct import Chain, DirectBackpropagation


@final
@dataclass(frozen=True)
class DRaFT(DirectBackpropagation):
    """Hyperparameters of DRaFT-K."""

    name: Literal["draft"] = "draft"
    last_steps: Count = 1
    """K: how many sampling steps carry a gradient; memory grows with it."""

    def check(self, steps: int) -> None:
        """Refuse more steps than there are."""
        if self.last_steps > steps:
            raise ValueError(f"last_steps {self.last_steps} is more than the {steps} sampling steps")

    def begins(self, steps: int) -> range:
        """Return K steps before the end."""
        return range(steps - self.last_steps, steps - self.last_steps + 1)

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Chain:
        """Return each picture's latents K steps before the end."""
        del scored, generator, randomness
        start = rollout.times.shape[1] - 1 - self.last_steps
        return Chain(rollout.index, rollout.prompts, rollout.x[:, 0], rollout.times[:, start:].to(rollout.x))
