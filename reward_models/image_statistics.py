"""What can be measured on any picture without a network: its light, its colours, its detail and where they lie.

Colours are in OKLab (Ottosson 2020), in which distances are about as large as they look: L lightness in [0, 1], a from
green to red, b from blue to yellow. Everything has a gradient to the pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from .pixels import high_frequency, luma
from .resize import straight_through_clamp

LONGEST = 256
"""Pixels of the longer side; a larger picture is reduced to it first: detail is told in parts of the picture."""
QUANTILES = (0.05, 0.5, 0.95)
TINY = 1e-8
"""Under a root, whose slope at 0 has no bound."""
GRID = 8
"""Places a side, over which colours are averaged before they are compared with one another."""
ALIKE = {"fine": 0.05, "coarse": 0.15}
"""Distances in OKLab within which two colours count as alike: just told apart, and of one family."""
HUES = (0, 60, 120, 180, 240, 300)
"""Degrees in OKLab: about pink, orange, lime, teal, blue, violet."""
_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OPPONENTS = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
"""OKLab's two matrices: from linear RGB to cones, from their cube roots to L, a, b."""


def image_statistics(images: Tensor) -> dict[str, Tensor]:
    """Return statistics ``(B,)`` of ``images (B, 3, H, W)`` in [0, 1], by name, in float32.

    Those of neighbouring pixels are 0 along a side of one pixel, which has no neighbours.
    """
    pixels = _reduced(images.float())
    lab = oklab(pixels)
    light, colour = lab[:, 0], lab[:, 1:]
    chroma = (colour.square().sum(1) + TINY).sqrt()
    flat = {"lightness": light.flatten(1), "chroma": chroma.flatten(1)}
    green_red, blue_yellow = colour.flatten(2).unbind(1)
    found: dict[str, Tensor] = {}
    for name, values in {**flat, "green-red": green_red, "blue-yellow": blue_yellow}.items():
        found[f"{name} mean"] = values.mean(1)
        found[f"{name} spread"] = _spread(values)
    for name, values in flat.items():
        for quantile in QUANTILES:
            found[f"{name} {quantile:.0%}"] = torch.quantile(values, quantile, dim=1)
    found["hue agreement"] = (colour.mean((2, 3)).square().sum(1) + TINY).sqrt() / chroma.mean((1, 2))
    found["light and chroma together"] = (_centred(flat["lightness"]) * _centred(flat["chroma"])).mean(1)
    for scale in (1, 2, 4):
        pooled = lab if scale == 1 else _pooled(lab, scale)
        found[f"colour steps over {scale} pixels"] = _steps(pooled)
    found["high frequency"] = high_frequency(pixels)
    found |= _hues(colour, chroma) | _variety(lab) | {"colourfulness": _colourfulness(pixels)}
    return found | _composition(luma(pixels)) | {"aspect": torch.full_like(light[:, 0, 0], _aspect(images))}


def oklab(pixels: Tensor) -> Tensor:
    """Return encoded sRGB ``(B, 3, H, W)`` in [0, 1] as OKLab; what is outside is taken for the nearest colour."""
    pixels = straight_through_clamp(pixels)
    low = pixels / 12.92
    linear = torch.where(pixels <= 0.04045, low, ((pixels.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    cones = torch.einsum("bchw,kc->bkhw", linear, pixels.new_tensor(_CONES))
    roots = (cones + 1e-6) ** (1 / 3)
    return torch.einsum("bchw,kc->bkhw", roots, pixels.new_tensor(_OPPONENTS))


def _hues(colour: Tensor, chroma: Tensor) -> dict[str, Tensor]:
    """Return how much of the chroma lies around each hue, falling as cos², and how nearly all hues lie on one axis."""
    a, b = colour.unbind(1)
    total = chroma.sum((1, 2))
    found = {}
    for degrees in HUES:
        along = a * math.cos(math.radians(degrees)) + b * math.sin(math.radians(degrees))
        found[f"hue {degrees}°"] = (along.clamp(min=0).square() / chroma).sum((1, 2)) / total
    doubled = torch.stack([a.square() - b.square(), 2 * a * b]) / chroma  # the hue's angle twice: opposites agree
    found["hues on one axis"] = (doubled.sum((2, 3)).square().sum(0) + TINY).sqrt() / total
    return found


def _variety(lab: Tensor) -> dict[str, Tensor]:
    """Return how many colours there are, in nats: −log of the chance that two places are alike (Rényi's entropy)."""
    places = adaptive_avg_pool2d(lab, GRID).flatten(2)
    apart = (places[:, :, :, None] - places[:, :, None, :]).square().sum(1)
    return {
        f"colour variety, {name}": -torch.exp(-apart / (2 * within**2)).mean((1, 2)).log()
        for name, within in ALIKE.items()
    }


def _colourfulness(pixels: Tensor) -> Tensor:
    """Return the colourfulness ``(B,)`` of encoded sRGB after Hasler and Süsstrunk (2003), for values in [0, 1]."""
    red, green, blue = pixels.unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(2)
    spread, mean = opponents.var(2, correction=0).sum(0), opponents.mean(2).square().sum(0)
    return (spread + TINY).sqrt() + 0.3 * (mean + TINY).sqrt()


def _composition(grey: Tensor) -> dict[str, Tensor]:
    """Return how unlike the halves are, and how the middle differs from the whole, of ``grey (B, H, W)``."""
    height, width = grey.shape[1:]
    middle = grey[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    ramp_down, ramp_across = (torch.linspace(-1, 1, n, device=grey.device) if n > 1 else None for n in (height, width))
    still = torch.zeros_like(grey[:, 0, 0])
    return {
        "left-right asymmetry": (grey - grey.flip(2)).abs().mean((1, 2)),
        "top-bottom asymmetry": (grey - grey.flip(1)).abs().mean((1, 2)),
        "lighter middle": middle.mean((1, 2)) - grey.mean((1, 2)),
        "lighter below": still if ramp_down is None else (grey.mean(2) * ramp_down).mean(1),
        "lighter right": still if ramp_across is None else (grey.mean(1) * ramp_across).mean(1),
    }


def _steps(lab: Tensor) -> Tensor:
    """Return the mean distance in colour of neighbours ``(B,)``."""
    sides = [lab.diff(dim=dim).square().sum(1) for dim in (2, 3) if lab.shape[dim] > 1]
    if not sides:
        return torch.zeros_like(lab[:, 0, 0, 0])
    return torch.cat([(side + TINY).sqrt().flatten(1) for side in sides], 1).mean(1)


def _pooled(lab: Tensor, scale: int) -> Tensor:
    size = [min(scale, side) for side in lab.shape[-2:]]
    return avg_pool2d(lab, size)


def _spread(values: Tensor) -> Tensor:
    return (values.var(1, correction=0) + TINY).sqrt()


def _centred(values: Tensor) -> Tensor:
    return (values - values.mean(1, keepdim=True)) / _spread(values)[:, None]


def _reduced(images: Tensor) -> Tensor:
    longest = max(images.shape[-2:])
    if longest <= LONGEST:
        return images
    size = [max(1, round(side * LONGEST / longest)) for side in images.shape[-2:]]
    return straight_through_clamp(interpolate(images, size=size, mode="bicubic", antialias=True))


def _aspect(images: Tensor) -> float:
    height, width = images.shape[-2:]
    return float(torch.log2(torch.tensor(width / height)))
