"""Noise paths: how a clean latent x0 becomes noise, x = alpha(t)·x0 + sigma(t)·eps, and how a network's output is read.

Legend: ``t (B,)`` in [0, 1], 0 is clean; ``x, x0, eps (B, …)``. A network's output is read once, here, into a
`Prediction`; nothing else in the package knows which of the four parametrisations a network was trained with.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

Output = Literal["flow_prediction", "epsilon", "v_prediction", "sample"]
"""What a network predicts: eps − x0, eps, alpha·eps − sigma·x0, or x0."""


@final
@dataclass(frozen=True)
class Prediction:
    """A network's opinion of the clean latent ``x0`` and the noise ``eps``; x = alpha·x0 + sigma·eps holds exactly."""

    x0: Tensor
    eps: Tensor


class Path(ABC):
    """A noise path. Abstract: `Rectified` or `VariancePreserving`."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the share of x0 in x at ``t (B,)``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the share of eps in x at ``t (B,)``."""

    @abstractmethod
    def velocity(self, prediction: Prediction, t: Tensor) -> Tensor:
        """Return the prediction as the velocity in which this path's networks are usually trained and compared."""

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x = alpha(t)·x0 + sigma(t)·eps."""
        return over(self.alpha(t), x0) * x0 + over(self.sigma(t), x0) * eps

    def read(self, output: Tensor, x: Tensor, t: Tensor, kind: Output) -> Prediction:
        """Return a network's ``output`` at noisy ``x`` and time ``t`` in the canonical form."""
        alpha, sigma = over(self.alpha(t), x), over(self.sigma(t), x)
        if kind == "epsilon":
            return Prediction((x - sigma * output) / alpha, output)
        if kind == "sample":
            return Prediction(output, (x - alpha * output) / sigma)
        if kind == "v_prediction":
            return Prediction(alpha * x - sigma * output, sigma * x + alpha * output)
        return Prediction((x - sigma * output) / (alpha + sigma), (x + alpha * output) / (alpha + sigma))


@final
class Rectified(Path):
    """The straight path of rectified flow: alpha = 1 − t, sigma = t (SD3, FLUX, Qwen-Image, …)."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 − t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t

    def velocity(self, prediction: Prediction, t: Tensor) -> Tensor:
        """Return dx/dt = eps − x0."""
        del t
        return prediction.eps - prediction.x0


@final
class VariancePreserving(Path):
    """The path of DDPM, alpha² + sigma² = 1, on the grid of ``alphas_cumprod (N,)`` (SD1.5, SDXL, PixArt, …).

    t = (k + 1) / N is the network's integer time k; t = 0 is exactly clean. Other t are rounded to the grid.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.alphas_cumprod = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod])

    @property
    def size(self) -> int:
        """Return N, the number of noisy times on the grid."""
        return len(self.alphas_cumprod) - 1

    def index(self, t: Tensor) -> Tensor:
        """Return t·N as int64: 0 is clean, k + 1 is the network's time k."""
        return (t.double() * self.size).round().long()

    def alpha(self, t: Tensor) -> Tensor:
        """Return √ᾱ."""
        return self._cumulative(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return √(1 − ᾱ)."""
        return (1 - self._cumulative(t)).sqrt()

    def velocity(self, prediction: Prediction, t: Tensor) -> Tensor:
        """Return v = alpha·eps − sigma·x0 (Salimans & Ho 2022)."""
        return over(self.alpha(t), prediction.eps) * prediction.eps - over(self.sigma(t), prediction.x0) * prediction.x0

    def _cumulative(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[self.index(t)]


def over(values: Tensor, like: Tensor) -> Tensor:
    """Return ``values`` of shape ``()`` or ``(B,)`` with as many axes as ``like``, to multiply a batch by them."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
