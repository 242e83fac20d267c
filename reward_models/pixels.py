"""Statistics of the pixels as rewards: what people's taste leans on, and what a reward is most easily gamed with.

They serve as probes of another reward's bias, as regularisers (with a negative weight: less of it), and as exact
rewards for tests. All are differentiable. Luma is Rec. 709's, of the encoded values y = 0.2126 r + 0.7152 g + 0.0722 b.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.reward import Capabilities, Reward, Scores, identity, source_of

LUMA = (0.2126, 0.7152, 0.0722)
TINY = 1e-12
"""Under a root, whose slope at 0 has no bound; as a standard deviation 1e-6, far below a byte's step."""


def luma(images: Tensor) -> Tensor:
    """Return the luma ``(B, H, W)`` of ``images (B, 3, H, W)``, in float32."""
    return torch.einsum("bchw,c->bhw", images.float(), images.new_tensor(LUMA, dtype=torch.float32))


def brightness(images: Tensor) -> Tensor:
    """Return the mean luma ``(B,)``, in [0, 1]."""
    return luma(images).mean((1, 2))


def contrast(images: Tensor) -> Tensor:
    """Return the standard deviation of the luma ``(B,)``, in [0, ½]."""
    return (luma(images).var((1, 2), correction=0) + TINY).sqrt()


def saturation(images: Tensor) -> Tensor:
    """Return the mean of the largest less the smallest channel ``(B,)``, in [0, 1]; 0 is grey."""
    return (images.float().amax(1) - images.float().amin(1)).mean((1, 2))


def sharpness(images: Tensor) -> Tensor:
    """Return the mean difference of neighbouring lumas ``(B,)``, in [0, 1]; NaN for one pixel, which has none."""
    y = luma(images)
    across, down = y.diff(dim=2).abs().flatten(1), y.diff(dim=1).abs().flatten(1)
    return torch.cat([across, down], 1).mean(1)


def high_frequency(images: Tensor) -> Tensor:
    """Return the standard deviation ``(B,)`` of what is finer than 4 pixels a period, in either direction.

    sqrt(Σ |F(u, v)|²) / (H W) over the frequencies with max(|u|, |v|) > ¼ cycles a pixel, F the Fourier transform of
    the luma (Parseval). Texture, noise and upsampling artefacts live there.
    """
    y = luma(images)
    height, width = y.shape[-2:]
    energy = torch.fft.fft2(y).abs().square() / (height * width) ** 2
    down, across = (torch.fft.fftfreq(length, device=y.device).abs() for length in (height, width))
    fine = torch.maximum(down[:, None], across[None]) > 0.25
    within: Tensor = (energy * fine).sum((1, 2))
    return (within + TINY).sqrt()


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "sharpness": sharpness,
    "high_frequency": high_frequency,
}
"""Each takes ``(B, 3, H, W)`` in [0, 1] to ``(B,)``, with gradient, whatever the size and the prompt."""


@final
class PixelStatistic(Reward):
    """One of the `STATISTICS`, by its name."""

    can = Capabilities(differentiable=True)

    def __init__(self, name: str) -> None:
        self.name, self.statistic = name, STATISTICS[name]

    @property
    def id(self) -> str:
        """Return the name and a hash of this file."""
        return identity(self.name, source_of(type(self)))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the statistic of each picture ``(B,)``."""
        del prompts
        with torch.autocast(images.device.type, enabled=False):
            return Scores.of(self.statistic(images))
