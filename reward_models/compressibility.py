"""The size of a picture as a JPEG: DDPO's two exact rewards (Black et al. 2023), and a probe of detail."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.data import encode
from rlhf_images.errors import BadInput
from rlhf_images.reward import Reward, Scores, identity, source_of

QUALITY = 95


@final
class JpegSize(Reward):
    """``sign`` · kilobytes (1000 bytes) of the JPEG of a given quality: 1 asks for detail, -1 for smoothness.

    It sees bytes: a gradient does not pass, and pictures of different sizes do not compare.
    """

    def __init__(self, sign: int, quality: int = QUALITY) -> None:
        if not 1 <= quality <= 100:
            raise BadInput(f"JPEG quality {quality}: a number from 1 to 100")
        self.sign, self.quality = sign, quality

    @classmethod
    def compressible(cls, quality: str = str(QUALITY)) -> "JpegSize":
        """Return the reward for small files; ``jpeg_compressibility@80`` is that of quality 80."""
        return cls(-1, _number(quality))

    @classmethod
    def incompressible(cls, quality: str = str(QUALITY)) -> "JpegSize":
        """Return the reward for large files."""
        return cls(1, _number(quality))

    @property
    def id(self) -> str:
        """Return what it asks for and a hash of the quality and this file."""
        name = "jpeg_incompressibility" if self.sign > 0 else "jpeg_compressibility"
        return identity(name, str(self.quality), source_of(type(self)))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the signed sizes ``(B,)``; a picture with a number that is not finite fails."""
        del prompts
        sizes = [self._kilobytes(image) for image in images.detach()]
        return Scores.of(self.sign * torch.tensor(sizes, device=images.device))

    def _kilobytes(self, image: Tensor) -> float:
        if not bool(torch.isfinite(image).all()):
            return torch.nan
        return len(encode(image, "JPEG", quality=self.quality)) / 1000


def _number(text: str) -> int:
    if not text.isdecimal():
        raise BadInput(f"JPEG quality '{text}': a number from 1 to 100")
    return int(text)
