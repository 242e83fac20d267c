"""What a model leans on besides what is shown: light, contrast, colour, detail, file size. And whether the votes do.

Each question is asked twice. Of pairs: does the model prefer the brighter picture more often than the votes do? Of
edits: how does its score move when one picture is made brighter by a tenth, and darker?
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from rlhf_images.data import decode, encode
from rlhf_images.pictures import score_pictures
from rlhf_images.progress import progress
from rlhf_images.reward import Reward

from .pixels import STATISTICS, luma

Edit = Callable[[Tensor, float], Tensor]
"""A picture ``(3, H, W)`` with a share more of something, or less if it is below 0."""
AMOUNT = 0.1
UNSEEN = 0.5 / 255
"""A picture of which no number changes by more is not edited: 8 bits would not show it."""


def _brighter(image: Tensor, by: float) -> Tensor:
    return image * (1 + by)


def _contrasted(image: Tensor, by: float) -> Tensor:
    middle = luma(image[None]).mean()
    return middle + (image - middle) * (1 + by)


def _saturated(image: Tensor, by: float) -> Tensor:
    grey = luma(image[None])[0]
    return grey + (image - grey) * (1 + by)


def _sharper(image: Tensor, by: float) -> Tensor:
    """Add a share of what a blur of 3×3 pixels takes away."""
    return image + 3 * by * (image - _blurred(image, 1))


def _finer(image: Tensor, by: float) -> Tensor:
    """Add a texture of single pixels, a tenth of the picture's own contrast strong; less of it cannot be had: blur."""
    if by < 0:
        return image + by * 3 * (image - _blurred(image, 2))
    height, width = image.shape[-2:]
    board = ((torch.arange(height)[:, None] + torch.arange(width)) % 2).to(image) * 2 - 1
    return image + by * luma(image[None]).std(correction=0) * board


def _heavier(image: Tensor, by: float) -> Tensor:
    """Add the faintest grain that makes the JPEG larger by the share; or save it at the best quality that does less."""
    bytes_ = (1 + by) * jpeg_bytes(image)
    if by > 0:
        grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
        tried = (image + 2 ** (step / 2) * grain for step in range(-18, -3))
        return next((grained for grained in tried if jpeg_bytes(grained.clamp(0, 1)) >= bytes_), image)
    saved = (decode(encode(image, "JPEG", quality=quality)) for quality in range(95, 4, -5))
    return next((smaller for smaller in saved if jpeg_bytes(smaller) <= bytes_), image)


def jpeg_bytes(image: Tensor) -> int:
    """Return the size of ``image (3, H, W)`` as a JPEG of quality 95."""
    return len(encode(image, "JPEG", quality=95))


EDITS: dict[str, Edit] = {
    "brightness": _brighter,
    "contrast": _contrasted,
    "saturation": _saturated,
    "sharpness": _sharper,
    "high_frequency": _finer,
    "jpeg_size": _heavier,
}


@final
@dataclass(frozen=True)
class Leaning:
    """How one property counts. Shares are of decided pairs, score changes in log-odds, averaged over pictures."""

    votes: float | None
    """Share of pairs in which the votes preferred the picture with more of it."""
    model: float | None
    """Share of the same pairs in which the model does."""
    slope: float
    """Log-odds for one standard deviation more of it, from picture to picture of the same prompt."""
    up: float | None
    """What the score gains when a picture is given a tenth more of it; None where no picture can be: grey ones have no
    colour to be strengthened."""
    down: float | None
    """What it gains when it is given a tenth less."""


def probe(
    model: Reward,
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    prompts: Sequence[str],
    target: Tensor,
    edited: int,
) -> dict[str, Leaning]:
    """Return how ``model`` leans, on pairs of pictures ``(3, H, W)`` with the share of votes for the left ``(P,)``.

    The left pictures of the first ``edited`` pairs are edited.
    """
    measured = [torch.tensor([list(_properties(image).values()) for image in side]) for side in (left, right)]
    more = measured[0] - measured[1]
    margin = _scores(model, left, prompts) - _scores(model, right, prompts)
    changes = _changes(model, left[:edited], prompts[:edited])
    found = {}
    for column, name in enumerate(EDITS):
        difference = more[:, column]
        asked = (target != 0.5) & (difference != 0) & torch.isfinite(margin) & (margin != 0)
        sign = difference[asked] > 0
        deviation = float((difference.square().mean() / 2).sqrt())
        known = torch.isfinite(margin)
        power = float(difference[known].square().sum())
        slope = float((margin[known] * difference[known]).sum()) / power * deviation if power else 0.0
        shares = [float((sign == side[asked]).double().mean()) for side in (target > 0.5, margin > 0)]
        voted, ours = (round(share, 4) if len(sign) else None for share in shares)
        found[name] = Leaning(voted, ours, round(slope, 4), *changes[name])
    return found


def _changes(
    model: Reward, images: Sequence[Tensor], prompts: Sequence[str]
) -> dict[str, tuple[float | None, float | None]]:
    """Return the mean change of the score under each edit upwards and downwards, over the pictures that it changes."""
    before = _scores(model, images, prompts)
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, edit in progress(list(EDITS.items()), "bias probe"):
        ways = []
        for by in (AMOUNT, -AMOUNT):
            edited = [edit(image, by).clamp(0, 1) for image in images]
            seen = [bool((a - b).abs().amax() >= UNSEEN) for a, b in zip(edited, images, strict=True)]
            change = (_scores(model, edited, prompts) - before)[seen]
            change = change[torch.isfinite(change)]
            ways.append(round(float(change.mean()), 4) if len(change) else None)
        found[name] = (ways[0], ways[1])
    return found


def _scores(model: Reward, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
    """Return the scores of pictures of any sizes ``(B,)``, NaN where one failed."""
    return score_pictures(model, images, prompts, 16, told=None).scores.mean


def _properties(image: Tensor) -> dict[str, float]:
    """Return what the edits change, of one picture; a statistic that a single pixel lacks is 0."""
    found = {name: float(np.nan_to_num(float(STATISTICS[name](image[None])))) for name in list(EDITS)[:-1]}
    return found | {"jpeg_size": jpeg_bytes(image) / image[0].numel()}


def _blurred(image: Tensor, radius: int) -> Tensor:
    return avg_pool2d(pad(image[None], [radius] * 4, "replicate"), 2 * radius + 1, 1)[0]
