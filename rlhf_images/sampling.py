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
    clean at ``times (B, T + 1)``. Of the S steps that were drawn at random, whose numbers are ``drawn (B, S)``, it
    keeps the Gaussians: ``means (B, S, …)`` and ``stds (B, S)``.
    """

    prompts: list[str]
    index: list[int]
    images: Tensor
    x: Tensor
    times: Tensor
    drawn: Tensor
    means: Tensor
    stds: Tensor

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
    drawn: range | None = None,
    purpose: str = "sample",
) -> Rollout:
    """Return a rollout of ``prompts`` with global indices ``index``, at most ``micro_size`` pictures at a time.

    Steps whose number is in ``drawn`` (None: all) take ``kernel``, the others the ODE. Another ``purpose`` draws other
    numbers: an evaluation never repeats the noise of training, whatever the seeds.
    """
    parts = []
    for start in range(0, len(prompts), micro_size):
        rows = slice(start, start + micro_size)
        trajectory = generator.sample(prompts[rows], randomness.generators(purpose, index[rows]), kernel, drawn)
        x = torch.stack(trajectory.x_TB, 1)
        gaussians = trajectory.gaussians
        steps = [number for number, gaussian in enumerate(gaussians) if bool((gaussian.std > 0).all())]
        means = torch.stack([gaussians[i].mean for i in steps], 1) if steps else x[:, :0]
        stds = torch.stack([gaussians[i].std for i in steps], 1) if steps else x.new_zeros(len(x), 0)
        numbers = torch.tensor(steps, dtype=torch.long).expand(len(x), -1)
        parts.append((trajectory.images, x, trajectory.times.expand(len(x), -1), numbers, means, stds))
    return Rollout(list(prompts), list(index), *(torch.cat(column) for column in zip(*parts, strict=True)))
