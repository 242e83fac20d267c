"""What the alarms look at: numbers of a picture that a gamed reward is known to move.

Luma is Rec. 709's, y = 0.2126 r + 0.7152 g + 0.0722 b, of the encoded values in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

LUMA = (0.2126, 0.7152, 0.0722)
LEVELS = 16
"""Grey levels among which the entropy of a picture is taken."""
DARK, LIGHT = 0.1, 0.9
"""Lumas below and above which a pixel is nearly black and nearly white."""


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
    shares = torch.zeros(len(images), LEVELS).scatter_add_(1, levels, torch.ones(levels.shape)) / levels.shape[1]
    return -(shares * shares.clamp(min=1e-12).log2()).sum(1)


def saturation(images: Tensor) -> Tensor:
    """Return the mean ``(N,)`` of the largest less the smallest channel."""
    return (images.amax(1) - images.amin(1)).mean((1, 2))


def red_green(images: Tensor) -> Tensor:
    """Return the mean ``(N,)`` of red less green: a tint."""
    return (images[:, 0] - images[:, 1]).mean((1, 2))


def yellow_blue(images: Tensor) -> Tensor:
    """Return the mean ``(N,)`` of yellow less blue: a tint."""
    return ((images[:, 0] + images[:, 1]) / 2 - images[:, 2]).mean((1, 2))


def edges(images: Tensor) -> Tensor:
    """Return the mean difference ``(N,)`` of neighbouring lumas."""
    y = luma(images)
    return (y.diff(dim=2).abs().flatten(1).mean(1) + y.diff(dim=1).abs().flatten(1).mean(1)) / 2


def roughness(images: Tensor) -> Tensor:
    """Return the median magnitude ``(N,)`` of the luma's Laplacian: of noise and texture, blind to a few edges."""
    return _laplacian(images).abs().flatten(1).median(1).values


def crispness(images: Tensor) -> Tensor:
    """Return the root mean square ``(N,)`` of the luma's Laplacian."""
    return _laplacian(images).square().flatten(1).mean(1).sqrt()


def grid(images: Tensor) -> Tensor:
    """Return the share ``(N,)`` of the luma's variance in its finest frequencies, above 0.4 cycles a pixel."""
    y = luma(images)
    energy = torch.fft.fft2(y - y.mean((1, 2), keepdim=True)).abs().square()
    down, across = (torch.fft.fftfreq(length).abs() for length in y.shape[-2:])
    fine = torch.maximum(down[:, None], across[None]) > 0.4
    return (energy * fine).sum((1, 2)) / energy.sum((1, 2)).clamp(min=1e-9 * y[0].numel() ** 2)


SIGNS: dict[str, Callable[[Tensor], Tensor]] = {
    kind.__name__: kind
    for kind in (
        brightness, dark_share, light_share, contrast, entropy, saturation, red_green, yellow_blue, edges, roughness,
        crispness, grid,
    )
}
"""Each takes ``(N, 3, H, W)`` in [0, 1] to ``(N,)``."""


def _laplacian(images: Tensor) -> Tensor:
    kernel = images.new_tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return conv2d(pad(luma(images)[:, None], (1, 1, 1, 1), "replicate"), kernel)[:, 0]
