"""From a picture of any size to what a network sees, in torch, so that a gradient finds its way back to the pixels."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .resize import resampled, straight_through_clamp

FIT = "centre crop, bicubic with antialias"
"""How `Preprocessing.fitted` brings a picture to size; a model that was trained on another way is not ours."""


@final
@dataclass(frozen=True)
class Preprocessing:
    """A centred square of ``size`` pixels, then ``(pixel - mean) / std`` per channel. It is saved with the reward."""

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def fitted(self, images: Tensor) -> Tensor:
        """Return ``images (B, 3, H, W)`` as float32 ``(B, 3, size, size)`` in [0, 1].

        Bicubic with antialias equals PIL's to one step of a byte; bilinear or without antialias is several times worse.
        """
        images = images.float()
        height, width = images.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[..., top : top + side, left : left + side]
        whole = (self.size, self.size)
        return straight_through_clamp(square) if side == self.size else resampled(square, whole, (0, 0), whole)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return ``pixels (B, 3, size, size)`` in [0, 1] as the network takes them."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std
