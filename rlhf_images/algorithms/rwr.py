"""RWR, reward-weighted regression (Peters & Schaal 2007; for diffusion: Lee et al. 2023): denoise the good ones more.

The pretraining loss on one's own pictures, each weighted by softmax(A/temperature) over its group. No likelihood ratio,
no reference, no push away from the bad ones: a weak but stable baseline.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from ..config import Positive
from ..generators import Generator
from ..snapshots import Snapshots
from .base import Scored
from .forward_process import ForwardProcess, Noised, denoising_error


@final
@dataclass(frozen=True)
class RWR(ForwardProcess):
    """Hyperparameters of reward-weighted regression."""

    within_groups: ClassVar[bool] = True

    name: Literal["rwr"] = "rwr"
    temperature: Positive = 1.0
    """In units of the advantage: near 0 only a group's best counts, far above 1 all count alike."""

    def snapshots(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    def weights(self, scored: Scored) -> Tensor:
        """Return K·softmax(A/temperature) over the valid pictures of each group: 1 on average."""
        logits = (scored.advantages_PK / self.temperature).masked_fill(~scored.valid_PK, -torch.inf)
        weights_PK = torch.softmax(logits, 1).nan_to_num(0.0)  # a group without a valid picture: all its weights are 0
        return scored.of_mine(weights_PK * scored.valid_PK.sum(1, keepdim=True))

    def noised_loss(
        self, generator: Generator, snapshots: Snapshots, batch: Noised
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return weight·‖v − v*‖²."""
        del snapshots
        new = generator.predict(batch.prompts, batch.x, batch.t)
        error = denoising_error(generator.path, new, batch.x0, batch.eps, batch.t)
        return batch.weight * error, {"denoising_error": error.detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Do nothing."""
