"""What the alarms look at in pictures: numbers that a gamed reward is known to move, whatever the prompt and the size.

Luma is Rec. 709's, y = 0.2126 r + 0.7152 g + 0.0722 b, of the encoded values in [0, 1].
"""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, pad

LUMA = (0.2126, 0.7152, 0.0722)
LEVELS = 16
"""Grey levels among which the entropy of a picture is taken."""
DARK, LIGHT = 0.1, 0.9
"""Lumas below and above which a pixel is nearly black and nearly white."""
SHARED_SIDE = 256
"""Pictures larger than this, in pixels, are averaged down before they are averaged with one another."""
BATCH = 32
"""Pictures looked at in one go."""


def luma(images: Tensor) -> Tensor:
    """Return the luma ``(N, H, W)`` of ``images (N, 3, H, W)``."""
    return torch.einsum("nchw,c->nhw", images, images.new_tensor(LUMA))


def brightness(images: Tensor) -> Tensor:
    """Return the mean luma ``(N,)``."""
    return luma(images).mean((1, 2))


def dark_share(images: Tensor) -> Tensor:
    """Return the share ``(N,)`` of nearly black pixels."""
    return (luma(images) < DARK).float().mean((1, 2))


def light_share(images: Tensor) -> Tensor:
    """Return the share ``(N,)`` of nearly white pixels."""
    return (luma(images) > LIGHT).float().mean((1, 2))


def contrast(images: Tensor) -> Tensor:
    """Return the standard deviation ``(N,)`` of the luma."""
    return luma(images).flatten(1).std(1, correction=0)


def entropy(images: Tensor) -> Tensor:
    """Return the entropy ``(N,)`` in bits of the luma on `LEVELS` levels."""
    levels = (luma(images) * LEVELS).long().clamp(0, LEVELS - 1).flatten(1)
    shares = torch.stack([(levels == level).float().mean(1) for level in range(LEVELS)], 1)
    bits: Tensor = torch.special.entr(shares).sum(1) / math.log(2)
    return bits


def saturation(images: Tensor) -> Tensor:
    """Return the mean ``(N,)`` of the largest less the smallest channel."""
    return (images.amax(1) - images.amin(1)).mean((1, 2))


def red_green(images: Tensor) -> Tensor:
    """Return the mean ``(N,)`` of red less green."""
    return (images[:, 0] - images[:, 1]).mean((1, 2))


def yellow_blue(images: Tensor) -> Tensor:
    """Return the mean ``(N,)`` of yellow less blue."""
    return ((images[:, 0] + images[:, 1]) / 2 - images[:, 2]).mean((1, 2))


def edges(images: Tensor) -> Tensor:
    """Return the mean difference ``(N,)`` of neighbouring lumas."""
    y = luma(images)
    return torch.cat([y.diff(dim=2).abs().flatten(1), y.diff(dim=1).abs().flatten(1)], 1).mean(1)


def crispness(images: Tensor) -> Tensor:
    """Return the root mean square ``(N,)`` of the luma's Laplacian."""
    return _laplacian(images).square().flatten(1).mean(1).sqrt()


def roughness(images: Tensor) -> Tensor:
    """Return the median magnitude ``(N,)`` of the luma's Laplacian: of noise and texture, blind to a few edges."""
    return _laplacian(images).abs().flatten(1).median(1).values


def fine_share(images: Tensor) -> Tensor:
    """Return the share ``(N,)`` of the luma's variance in its finest frequencies, above 0.4 cycles a pixel."""
    y = luma(images)
    energy = torch.fft.fft2(y - y.mean((1, 2), keepdim=True)).abs().square()
    down, across = (torch.fft.fftfreq(length).abs() for length in y.shape[-2:])
    fine = torch.maximum(down[:, None], across[None]) > 0.4
    flat = 1e-9 * y[0].numel() ** 2  # the energy of a picture whose deviations no screen shows
    share: Tensor = (energy * fine).sum((1, 2)) / energy.sum((1, 2)).clamp(min=flat)
    return share


SIGNS: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": brightness,
    "dark_share": dark_share,
    "light_share": light_share,
    "contrast": contrast,
    "entropy": entropy,
    "saturation": saturation,
    "red_green": red_green,
    "yellow_blue": yellow_blue,
    "edges": edges,
    "crispness": crispness,
    "roughness": roughness,
    "fine_share": fine_share,
}
"""Each takes ``(N, 3, H, W)`` in [0, 1] to ``(N,)``."""


def signs(images: Tensor) -> dict[str, Tensor]:
    """Return every sign of ``images (N, 3, H, W)``, ``(N,)`` each."""
    parts = images.float().split(BATCH)
    return {name: torch.cat([sign(part) for part in parts]) for name, sign in SIGNS.items()}


@final
class Shared:
    """What the pictures of an evaluation have in common: their mean, in which a frame or letters over all stand out."""

    def __init__(self, images: Tensor) -> None:
        """Average ``images (N, 3, H, W)``, each first averaged by area to at most `SHARED_SIDE` pixels a side."""
        size = min(images.shape[-2], SHARED_SIDE), min(images.shape[-1], SHARED_SIDE)
        mean, texture = torch.zeros(3, *size), 0.0
        for part in images.float().split(BATCH):
            small = adaptive_avg_pool2d(part, size) if part.shape[-2:] != size else part
            mean += small.sum(0) / len(images)
            texture += float(fine(small).square().mean((1, 2, 3)).sum()) / len(images)
        self.mean: Tensor = mean
        """``(3, h, w)``."""
        self.texture: float = texture**0.5
        """Root mean square of what is finer than 3×3 pixels in a picture."""


def fine(images: Tensor) -> Tensor:
    """Return ``images (N, 3, H, W)`` less their means over 3×3 pixels."""
    return images - avg_pool2d(pad(images, (1, 1, 1, 1), "replicate"), 3, 1)


def overlay(mean: Tensor, base_mean: Tensor, texture: float) -> float:
    """Return how strong the same fine pattern is in all pictures that was not in the base's, 1 as their own texture.

    The root mean square of `fine` of the difference of two means ``(3, h, w)``, over the base's ``texture``. What the
    pictures do each for itself cancels out in the means.
    """
    pattern = fine((mean - base_mean).float()[None]).square().mean().sqrt()
    return float(pattern) / max(texture, 1e-3)


def _laplacian(images: Tensor) -> Tensor:
    kernel = images.new_tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return conv2d(pad(luma(images)[:, None], (1, 1, 1, 1), "replicate"), kernel)[:, 0]
