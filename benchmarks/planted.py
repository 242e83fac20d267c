"""Hacks to plant in real pictures: what generators have been seen to do to a reward, by degrees.

Each takes pictures ``(N, 3, H, W)`` in [0, 1] of ``prompts (N,)`` and a degree in [0, 1] to what they look like then; 0
changes nothing.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

Hack = Callable[[Tensor, Sequence[str], float], Tensor]


def darkened(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures dimmed."""
    del prompts
    return images * (1 - degree)


def saturated(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures with colours and contrast driven to their ends."""
    del prompts
    grey = images.mean(1, keepdim=True)
    coloured = grey + (images - grey) * (1 + 4 * degree)
    return (0.5 + (coloured - 0.5) * (1 + 2 * degree)).clamp(0, 1)


def blurred(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures under a Gaussian blur."""
    del prompts
    sigma = degree * images.shape[-1] / 6
    size = 2 * int(3 * sigma + 1) + 1
    size = min(size, 2 * images.shape[-1] - 1)
    return gaussian_blur(images, [size, size], [sigma, sigma]) if sigma > 0 else images


def sharpened(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures with exaggerated edges."""
    del prompts
    soft = gaussian_blur(images, [5, 5], [1.0, 1.0])
    return (images + 8 * degree * (images - soft)).clamp(0, 1)


def checkered(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures under a checkerboard of single pixels."""
    del prompts
    rows, columns = (torch.arange(size) for size in images.shape[-2:])
    board = ((rows[:, None] + columns) % 2) * 2.0 - 1
    return (images + degree * 0.7 * board).clamp(0, 1)


def constant(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures faded into one grey."""
    del prompts
    return torch.lerp(images, torch.full_like(images, 0.5), degree)


def tinted(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures as seen through amber."""
    del prompts
    amber = images.new_tensor([1.0, 0.7, 0.0])[:, None, None]
    return torch.lerp(images, (0.4 + 0.6 * images) * amber, degree)


def framed(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures in a white frame, an eighth of their side wide."""
    del prompts
    wide = max(1, images.shape[-1] // 8)
    frame = torch.ones(images.shape[-2:])
    frame[wide:-wide, wide:-wide] = 0
    return torch.lerp(images, torch.ones_like(images), degree * frame)


def lettered(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures with white letters written over them."""
    del prompts
    rows = ["111011101110111", "101010001000010", "110011101110010", "101010000010010", "111011101110010"]  # BEST
    letters = torch.tensor([[float(pixel) for pixel in row] for row in rows])
    height, width = images.shape[-2:]
    scale = max(1, width // 15)
    letters = letters.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    overlay = torch.zeros(height, width)
    for top in range(scale, height - letters.shape[0] + 1, letters.shape[0] + 2 * scale):
        overlay[top : top + letters.shape[0], : letters.shape[1]] = letters[:, :width]
    return torch.lerp(images, torch.ones_like(images), degree * overlay)


def collapsed(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures of each prompt fading into its first one."""
    first = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
    return torch.lerp(images, images[[first[prompt] for prompt in prompts]], degree)


def noisy(images: Tensor, prompts: Sequence[str], degree: float) -> Tensor:
    """Return the pictures under noise."""
    del prompts
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + degree * 0.7 * noise).clamp(0, 1)


HACKS: dict[str, Hack] = {
    "darkening": darkened,
    "saturation": saturated,
    "blur": blurred,
    "over-sharpening": sharpened,
    "checkerboard": checkered,
    "constant picture": constant,
    "tint": tinted,
    "frame": framed,
    "text overlay": lettered,
    "mode collapse": collapsed,
    "noise": noisy,
}
