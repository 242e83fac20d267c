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

    ``index`` holds global indices, ``images (B, 3, H, W)`` are in [0, 1], ``x0 (B, …)`` the clean latents where
    ``times (B, T + 1)`` end. On the way there latent number n belongs to the n-th of the times; ``x (B, N, …)`` are
    those that were asked for, their consecutive numbers ``kept (B, N)``. Of the S steps that were drawn at random,
    whose numbers are ``drawn (B, S)``, it keeps the Gaussians: ``means (B, S, …)`` and ``stds (B, S)``.
    """

    prompts: list[str]
    index: list[int]
    images: Tensor
    x0: Tensor
    times: Tensor
    x: Tensor
    kept: Tensor
    drawn: Tensor
    means: Tensor
    stds: Tensor

    def latents(self, rows: Tensor, numbers: Tensor) -> Tensor:
        """Return latent ``numbers (M,)`` of pictures ``rows (M,)``: those before the steps of these numbers."""
        place = numbers - self.kept[rows, 0]
        if bool((place < 0).any()):
            raise IndexError("latents that this rollout was not asked to keep")
        return self.x[rows.to(self.x.device), place.to(self.x.device)]


def sample(
    generator: Generator,
    prompts: Sequence[str],
    index: Sequence[int],
    randomness: Randomness,
    micro_size: int,
    kernel: Kernel = ode,
    drawn: range | None = None,
    purpose: str = "sample",
    keep: range = range(0),
) -> Rollout:
    """Return a rollout of ``prompts`` with global indices ``index``, at most ``micro_size`` pictures at a time.

    Steps whose number is in ``drawn`` (None: all) take ``kernel``, the others the ODE. Another ``purpose`` draws other
    numbers: an evaluation never repeats the noise of training, whatever the seeds. Of the latents on the way those
    whose number is in ``keep`` stay: a whole trajectory is ten times and more what the pictures' final latents take.
    """
    parts = []
    for start in range(0, len(prompts), micro_size):
        rows = slice(start, start + micro_size)
        trajectory = generator.sample(prompts[rows], randomness.generators(purpose, index[rows]), kernel, drawn)
        x0, gaussians = trajectory.x_TB[-1], trajectory.gaussians
        steps = [number for number, gaussian in enumerate(gaussians) if bool((gaussian.std > 0).all())]
        means = _stacked([gaussians[i].mean for i in steps], x0)
        stds = _stacked([gaussians[i].std for i in steps], x0[:, 0].flatten(1)[:, 0])
        x, kept, numbers = _stacked([trajectory.x_TB[i] for i in keep], x0), list(keep), list(steps)
        times, count = trajectory.times, len(x0)
        columns = (trajectory.images, x0, times.expand(count, -1), x, _numbers(kept, count), _numbers(numbers, count))
        parts.append((*columns, means, stds))
    return Rollout(list(prompts), list(index), *(torch.cat(column) for column in zip(*parts, strict=True)))


def _stacked(values: list[Tensor], like: Tensor) -> Tensor:
    """Return values ``(B, …)`` as ``(B, N, …)``, also where there are none of them."""
    return torch.stack(values, 1) if values else like[:, None][:, :0]


def _numbers(numbers: list[int], count: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long).expand(count, -1)
