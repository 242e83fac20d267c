"""How a picture is composed, as exact rewards: the palette it keeps to, and its mirror symmetry."""

import re
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, identity, source_of

AXES = {"left-right": -1, "top-bottom": -2}


@final
class Palette(Reward):
    """``-mean over the pixels of min over the colours of |pixel - colour|²``, in encoded RGB; 0 is all of the palette.

    Written with its colours: ``palette@#1f77b4,#ff7f0e,#ffffff``.
    """

    can = Capabilities(differentiable=True)

    def __init__(self, colours: str) -> None:
        found = [re.fullmatch(r"#?([0-9a-fA-F]{6})", colour.strip()) for colour in colours.split(",")]
        codes = [match[1].lower() for match in found if match]
        if len(codes) < len(found):
            raise BadInput(f"palette@{colours}: colours as #rrggbb, with commas between them")
        self.codes = codes
        self.colours = torch.tensor([list(bytes.fromhex(code)) for code in codes]) / 255

    @property
    def id(self) -> str:
        """Return a hash of the colours and this file."""
        return identity("palette", ",".join(sorted(self.codes)), source_of(type(self)))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return how near each picture is to the palette ``(B,)``, from -3 to 0."""
        del prompts
        pixels = images.float()
        distances = [(pixels - colour[:, None, None]).square().sum(1) for colour in self.colours.to(images.device)]
        return Scores.of(-torch.stack(distances).amin(0).mean((1, 2)))


@final
class Symmetry(Reward):
    """``-mean |picture - its mirror image|``, from -1 to 0: ``symmetry@left-right``, the default, or ``@top-bottom``.

    A flat picture is perfectly symmetric, and scores 0: add a reward that it loses on.
    """

    can = Capabilities(differentiable=True)

    def __init__(self, axis: str = "left-right") -> None:
        if axis not in AXES:
            raise BadInput(f"symmetry@{axis}: {' or '.join(AXES)}")
        self.axis = axis

    @property
    def id(self) -> str:
        """Return a hash of the axis and this file."""
        return identity("symmetry", self.axis, source_of(type(self)))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return how alike the halves of each picture are ``(B,)``."""
        del prompts
        pixels = images.float()
        return Scores.of(-(pixels - pixels.flip(AXES[self.axis])).abs().mean((1, 2, 3)))
