"""Sampling: pictures of prompts, each from random numbers that are a function of its global index alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .batch import Batch
from .generators import Generator
from .math.kernels import Kernel, ode
from .randomness import Randomness


@final
@dataclass(frozen=True)
class Rollout(Batch):
    """What sampling leaves of B pictures.

    ``index`` holds global indices, ``images (B, 3, H, W)`` are in [0, 1], ``x (B, T + 1, …)`` the latents from noise to
    clean, ``times (B, T + 1)``, and ``log_probs (B, T)`` are means over latent elements, 0 for deterministic steps.
    """

    prompts: list[str]
    index: list[int]
    images: Tensor
    x: Tensor
    times: Tensor
    log_probs: Tensor

    @property
    def x0(self) -> Tensor:
        """Return the final latents."""
        return self.x[:, -1]


def sample(
    generator: Generator,
    prompts: Sequence[str],
    index: Sequence[int],
    randomness: Randomness,
    micro_size: int,
    kernel: Kernel = ode,
    purpose: str = "sample",
) -> Rollout:
    """Return a rollout of ``prompts`` with global indices ``index``, at most ``micro_size`` pictures at a time.

    Another ``purpose`` draws other numbers: an evaluation never repeats the noise of training, whatever the seeds.
    """
    parts = []
    for start in range(0, len(prompts), micro_size):
        rows = slice(start, start + micro_size)
        trajectory = generator.sample(prompts[rows], randomness.generators(purpose, index[rows]), kernel)
        x = torch.stack(trajectory.x_TB, 1)
        times = trajectory.times.expand(len(x), -1)
        parts.append((trajectory.images, x, times, trajectory.log_probs.T))
    images, x, times, log_probs = (torch.cat(column) for column in zip(*parts, strict=True))
    return Rollout(list(prompts), list(index), images, x, times, log_probs)
