"""Reading handwritten digits: what the taste `bold` and the judge `legibility` have in common, which is no data."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from rlhf_images.data import DIGIT_CAPTIONS, digits

SIZE = 16
"""Digits are read at this many pixels a side."""


def scans(first: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return every second real scan from number ``first`` on: pixels ``(N, 256)`` in [0, 1] and labels ``(N,)``."""
    images, labels = digits(SIZE)
    return pixels(images[first::2]), labels[first::2].numpy()


def pixels(images: Tensor) -> NDArray[np.float32]:
    """Return ``images (B, 3, H, W)`` as grey pixels ``(B, 256)`` in [0, 1], resized if they have another size."""
    grey = images.detach().float().cpu().mean(1, keepdim=True)
    if grey.shape[-2:] != (SIZE, SIZE):
        grey = interpolate(grey, size=(SIZE, SIZE), mode="bicubic", antialias=True)
    array: NDArray[np.float32] = grey.clamp(0, 1).flatten(1).numpy()
    return array


def asked(prompts: Sequence[str]) -> Tensor:
    """Return the digit that each prompt asks for ``(B,)``, or -1 for a prompt that is no caption of a digit."""
    numbers = {caption: number for number, caption in enumerate(DIGIT_CAPTIONS)}
    return torch.tensor([numbers.get(prompt.strip(), -1) for prompt in prompts], dtype=torch.long)
