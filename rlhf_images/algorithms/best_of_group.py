"""Best-of-group fine-tuning (also RAFT, rejection sampling): denoise each group's best picture, forget the others.

The pretraining loss on one's own winners. No likelihood ratio, no reference: a baseline, and hard to break.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from ..generators import Generator
from ..randomness import Randomness
from ..sampling import Rollout
from ..snapshots import Snapshots
from .base import Scored
from .forward_process import ForwardProcess, Noised, denoising_error, noised


@final
@dataclass(frozen=True)
class BestOfGroup(ForwardProcess):
    """Hyperparameters of best-of-group fine-tuning."""

    within_groups: ClassVar[bool] = True

    name: Literal["best_of_group"] = "best_of_group"

    def snapshots(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    def weights(self, scored: Scored) -> Tensor:
        """Return 1 for the best valid picture of each group (the first of equals), 0 for the others."""
        best = scored.rewards_PK.masked_fill(~scored.valid_PK, -torch.inf).argmax(1, keepdim=True)
        return scored.of_mine(torch.zeros_like(scored.rewards_PK).scatter(1, best, 1.0))

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Noised:
        """Return the best pictures' final latents under fresh noise at `times_per_image` times."""
        weights = self.weights(scored)
        best = weights.nonzero()[:, 0]
        return noised(rollout.select(best.tolist()), weights[best], generator, randomness, self.times_per_image)

    def noised_loss(
        self, generator: Generator, snapshots: Snapshots, batch: Noised
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ‖v − v*‖²."""
        del snapshots
        new = generator.predict(batch.prompts, batch.x, batch.t)
        error = denoising_error(generator.path, new, batch.x0, batch.eps, batch.t)
        return error, {"denoising_error": error.detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Do nothing."""
