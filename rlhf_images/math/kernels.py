"""Kernels: one step of sampling from time t to t_next, as a Gaussian.

A stochastic step is a `Gaussian`: the draw, its log-probability and the KL between two policies all come from it.
DDIM(η), coefficient-preserving sampling and the probability-flow ODE are one kernel, `ancestral`, with three widths;
Flow-SDE and Dance-SDE add a score term to the ODE. Log-probabilities are *means over latent elements*, not sums: a
temperature of 1/D that the whole literature uses (D is the number of latent elements).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .path import Path, Prediction, over


@final
@dataclass(frozen=True)
class Gaussian:
    """N(mean, std²) over latents: ``mean (B, …)``, ``std (B,)``; std 0 is a deterministic step."""

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """Return mean + std·noise."""
        return self.mean + over(self.std, self.mean) * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Return ``(B,)`` log-densities of ``x``, mean over elements. Needs std > 0."""
        z = (x - self.mean) / over(self.std, x)
        return -(z**2).flatten(1).mean(1) / 2 - self.std.log() - math.log(2 * math.pi) / 2

    def kl(self, other: "Gaussian") -> Tensor:
        """Return ``(B,)`` KL(self ‖ other), mean over elements. Needs both std > 0."""
        ratio = (self.std / other.std) ** 2
        distance = ((self.mean - other.mean) ** 2).flatten(1).mean(1) / other.std**2
        return (ratio + distance - 1 - ratio.log()) / 2


Kernel = Callable[[Path, Prediction, Tensor, Tensor, Tensor], Gaussian]
"""``(path, prediction, x, t, t_next) -> Gaussian`` of the next x."""


def ancestral(path: Path, prediction: Prediction, t_next: Tensor, std: Tensor) -> Gaussian:
    """Return N(alpha'·x0 + √(sigma'² − std²)·eps, std²): any width keeps the marginal at ``t_next`` (DDIM eq. 12)."""
    alpha, sigma = path.alpha(t_next), path.sigma(t_next)
    keep = (sigma**2 - std**2).clamp(min=0).sqrt()  # std ≤ sigma' for every kernel below; the clamp takes rounding only
    mean = over(alpha, prediction.x0) * prediction.x0 + over(keep, prediction.eps) * prediction.eps
    return Gaussian(mean, std)


def ode(path: Path, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor) -> Gaussian:
    """Return the deterministic step: Euler's on a rectified path, DDIM's with η = 0 on a variance-preserving one."""
    del x, t
    return ancestral(path, prediction, t_next, torch.zeros_like(t_next))


def ddim(eta: float) -> Kernel:
    """Return DDIM's kernel (Song et al. 2021, eq. 16); η = 1 is DDPM, the posterior of x' given x0; η in [0, 1].

    std = η·(sigma'/sigma)·√(sigma² − (alpha/alpha')²·sigma'²); on a VP path the root is the paper's √(1 − α²/α'²).
    """

    def kernel(path: Path, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor) -> Gaussian:
        del x
        fraction = path.sigma(t) ** 2 - (path.alpha(t) / path.alpha(t_next) * path.sigma(t_next)) ** 2
        std = eta * path.sigma(t_next) / path.sigma(t) * fraction.clamp(min=0).sqrt()
        return ancestral(path, prediction, t_next, std)

    return kernel


def cps(eta: float) -> Kernel:
    """Return Flow-CPS's kernel: std = sigma'·sin(η·π/2), which keeps the noise level exact; η in [0, 1]."""

    def kernel(path: Path, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor) -> Gaussian:
        del x, t
        return ancestral(path, prediction, t_next, path.sigma(t_next) * math.sin(eta * math.pi / 2))

    return kernel


def flow_sde(eta: float) -> Kernel:
    """Return Flow-GRPO's kernel on a rectified path: diffusion g = η·√(t/(1−t)).

    mean = x + v·dt + g²/(2t)·(x + (1−t)·v)·dt, std = g·√(−dt). At t = 1 the paper's coefficient is infinite; its code
    reads the schedule's second time in 1 − t there, and so do we: it is this step's ``t_next``.
    """

    def kernel(path: Path, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor) -> Gaussian:
        g = eta * (t / (1 - torch.where(t >= 1, t_next, t))).sqrt()
        return _with_score(path, prediction, x, t, t_next, g)

    return kernel


def dance_sde(eta: float) -> Kernel:
    """Return DanceGRPO's kernel on a rectified path: constant diffusion g = η, std = η·√(−dt)."""

    def kernel(path: Path, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor) -> Gaussian:
        return _with_score(path, prediction, x, t, t_next, torch.full_like(t, eta))

    return kernel


KERNELS: dict[str, tuple[Callable[[float], Kernel], float]] = {
    "flow_sde": (flow_sde, 0.7),
    "dance_sde": (dance_sde, 0.3),
    "cps": (cps, 0.8),
    "ddim": (ddim, 1.0),
}
"""The stochastic kernels by name, each with its published η."""


def _with_score(path: Path, prediction: Prediction, x: Tensor, t: Tensor, t_next: Tensor, g: Tensor) -> Gaussian:
    """Return the reverse SDE's Euler step: dx = (v − g²/2·score)·dt + g·dw, with score = −eps/t on a rectified path."""
    dt = t_next - t
    drift = path.velocity(prediction, t) + over(g**2 / (2 * t), x) * prediction.eps
    return Gaussian(x + over(dt, x) * drift, g * (-dt).sqrt())
