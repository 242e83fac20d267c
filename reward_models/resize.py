"""How published scorers bring a picture to size, in torch, so that a gradient finds its way back to the pixels.

Pillow's antialiased bicubic is linear and separable: one matrix for the rows and one for the columns. As matrices it
gives any part of the resized picture alone, so a picture of 1×4000 pixels costs what a square one does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def shortest_side(images: Tensor, size: int) -> Tensor:
    """Return ``images (B, 3, H, W)`` in [0, 1] with the shorter side at ``size``, centre-cropped: OpenAI CLIP's way.

    Float32 ``(B, 3, size, size)``; equals torchvision's `Resize` and `CenterCrop` of the PIL picture to one byte step.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    resized = [size if side == shorter else int(size * side / shorter) for side in (height, width)]
    first = [round((side - size) / 2) for side in resized]
    return resampled(images, resized, first, (size, size))


def letterboxed(images: Tensor, size: int) -> Tensor:
    """Return ``images (B, 3, H, W)`` in [0, 1] with the longer side at ``size``, in the middle of a black square.

    Float32 ``(B, 3, size, size)``, as HPSv2 sees pictures: whole ones. A side of less than a pixel is one pixel wide.
    """
    longer = max(images.shape[-2:])
    resized = [max(1, round(side * size / longer)) for side in images.shape[-2:]]
    top, left = ((size - side) // 2 for side in resized)
    bottom, right = size - resized[0] - top, size - resized[1] - left
    return torch.nn.functional.pad(resampled(images, resized, (0, 0), resized), (left, right, top, bottom))


def resampled(images: Tensor, resized: Sequence[int], first: Sequence[int], count: Sequence[int]) -> Tensor:
    """Return ``count`` rows and columns from number ``first`` on of ``images`` at size ``resized``.

    First within the rows, then across them, and clamped between, where a bicubic filter overshoots at sharp edges: as
    Pillow does it, whose bytes between cannot hold more. (Since version 13 it takes the columns first where that costs
    less, as for tall pictures; the published scorers were trained before.)
    """
    rows, columns = (
        bicubic(length, *wanted).to(images.device)
        for length, *wanted in zip(images.shape[-2:], resized, first, count, strict=True)
    )
    return straight_through_clamp(rows @ straight_through_clamp(images.float() @ columns.T))


def straight_through_clamp(pixels: Tensor) -> Tensor:
    """Return ``pixels`` clamped to [0, 1] with the gradient of the identity, where a hard clamp's would be 0."""
    return pixels + (pixels.clamp(0, 1) - pixels).detach()


def bicubic(length: int, resized: int, first: int, count: int) -> Tensor:
    """Return the matrix ``(count, length)`` that takes ``length`` pixels to number ``first`` … of ``resized`` ones.

    Pillow's filter: Keys' cubic with a = -½, widened by the scale where pixels are merged, each row summing to 1.
    """
    scale = length / resized
    centre = (torch.arange(first, first + count, dtype=torch.float64) + 0.5) * scale
    pixel = torch.arange(length, dtype=torch.float64) + 0.5
    x = ((pixel - centre[:, None]) / max(scale, 1.0)).abs()
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    return (weights / weights.sum(1, keepdim=True)).float()
