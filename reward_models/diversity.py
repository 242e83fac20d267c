"""Diversity within a group as a reward: how unlike the other pictures of its prompt a picture is.

What the loop's other rewards tend to destroy. The mean over a group is the report's `statistics.diversity` of it.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.reward import Capabilities, Reward, Scores
from rlhf_images.statistics import CONSTANT, DIVERSITY_SIDE


@final
class Diversity(Reward):
    """``1 - r``, r the mean correlation with the other pictures of the group; 0 is a copy of them all.

    Pearson's, over all pixels and channels, averaged by area to at most 32×32. A picture alone in its group fails, and
    one with a pixel that is not finite fails alone: the others are compared without it.
    """

    can = Capabilities(differentiable=True, groupwise=True)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return how unlike the others each picture of one group is ``(B,)``."""
        del prompts
        finite = torch.isfinite(images).flatten(1).all(1)
        with torch.autocast(images.device.type, enabled=False):
            thumbnails = _thumbnails(images[finite].float())
            constant = (thumbnails == 0).all(1)
            correlation = thumbnails @ thumbnails.T + torch.outer(constant, constant)
        others = len(thumbnails) - 1
        if others < 1:
            return Scores.of(images.new_full((len(images),), torch.nan, dtype=torch.float32))
        mean = 1 - (correlation.sum(1) - correlation.diagonal()) / others
        failed = images.new_full((len(images),), torch.nan, dtype=torch.float32)
        return Scores.of(failed.masked_scatter(finite, mean))


def _thumbnails(images: Tensor) -> Tensor:
    """Return ``images (B, 3, H, W)`` averaged by area, flat, centred and of length 1 ``(B, D)``; zeros if constant."""
    rows, columns = (_averaging(length).to(images) for length in images.shape[-2:])
    small = (rows @ images @ columns.T).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    length = centred.square().sum(1, keepdim=True).clamp(min=1e-30).sqrt()
    varied = length > CONSTANT * small.shape[1] ** 0.5
    return torch.where(varied, centred / length, torch.zeros_like(centred))


def _averaging(length: int) -> Tensor:
    """Return the matrix ``(min(length, 32), length)`` of averages over equal parts of ``length`` pixels."""
    edges = torch.linspace(0, length, min(length, DIVERSITY_SIDE) + 1, dtype=torch.float64)
    pixel = torch.arange(length, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return inside.clamp(min=0) / edges.diff()[:, None]
