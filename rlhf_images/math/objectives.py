"""Objectives: the losses of the papers, one value a sample, so that the caller owns every mean."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .kernels import Gaussian
from .path import over


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Return ``(B,)`` mean over elements of (a − b)²."""
    return ((a - b) ** 2).flatten(1).mean(1)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return PPO's loss ``(B,)`` max(−A·r, −A·clip(r, 1 ± clip)), and 1 where the clip took the gradient, else 0."""
    ratio = log_ratio.exp()
    free, held = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, held), (held > free).detach().to(free.dtype)


def regulated_log_ratio(new: Gaussian, behaviour: Gaussian, x_next: Tensor) -> Tensor:
    """Return GRPO-Guard's ``(B,)`` std·(log r + ‖μ − μ_old‖²/(2·std²)), which is the mean of (μ − μ_old)·z."""
    log_ratio = new.log_prob(x_next) - behaviour.log_prob(x_next)
    bias = squared_error(new.mean, behaviour.mean) / (2 * behaviour.std**2)
    return behaviour.std * (log_ratio + bias)


def divergence_masked(log_ratio: Tensor, divergence: Tensor, advantage: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return Flow-DPPO's loss ``(B,)`` −A·r, 0 where ``divergence`` ≥ bound and A leads further away, and that mask."""
    ratio = log_ratio.exp()
    away = ((advantage > 0) & (ratio > 1)) | ((advantage < 0) & (ratio < 1))
    masked = (divergence >= bound) & away
    return (-advantage * ratio).where(~masked, torch.zeros_like(ratio)), masked.detach().to(ratio.dtype)


def adjoint_matching(new: Tensor, reference: Tensor, old: Tensor, truth: Tensor, strength: Tensor) -> Tensor:
    """Return RAM's loss ``(B,)`` ‖v − sg(v_ref + s·(v* − v_old))‖², a mean over elements; ``strength`` s ``(B,)``."""
    return squared_error(new, (reference + over(strength, new) * (truth - old)).detach())


def diffusion_dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return Diffusion-DPO's loss ``(B,)`` −log σ(−β/2·(chosen − rejected)) (Wallace et al. 2024, eq. 14).

    ``chosen`` and ``rejected (B,)`` are the policy's denoising error less the reference's, a mean over elements; so β
    is D times larger than with sums.
    """
    return -logsigmoid(-beta / 2 * (chosen - rejected))


def voted_dpo(left: Tensor, right: Tensor, share: Tensor, beta: float) -> Tensor:
    """Return Diffusion-DPO's loss ``(B,)`` under votes of which ``share (B,)`` chose the left: both ways, weighted.

    With all votes on one side it is `diffusion_dpo`; else its minimum lies where the policy is as sure as the voters,
    at β/2·(right − left) = log(share / (1 − share)).
    """
    return share * diffusion_dpo(left, right, beta) + (1 - share) * diffusion_dpo(right, left, beta)


def optimality(advantage: Tensor, clip: float) -> Tensor:
    """Return DiffusionNFT's r in [0, 1]: ½ + ½·clip(A/clip, −1, 1), the probability that a sample is a good one."""
    return (advantage / clip).clamp(-1, 1) / 2 + 0.5


def nft(x0_new: Tensor, x0_behaviour: Tensor, x0: Tensor, r: Tensor, beta: float) -> Tensor:
    """Return DiffusionNFT's loss ``(B,)`` (Zheng et al. 2025, eq. 5), written in x0 instead of velocity.

    With v± = v_old ± β·(v − v_old), and since x0 is affine in v on either path, the implicit positive and negative
    predictions are x0± = x0_old ± β·(x0_new − x0_old). Loss: r·‖x0⁺ − x0‖²/w⁺ + (1 − r)·‖x0⁻ − x0‖²/w⁻, with
    w± = sg(mean|x0± − x0|) as in the authors' code (self-normalisation), all divided by β.
    """
    step = beta * (x0_new - x0_behaviour)
    positive, negative = x0_behaviour + step, x0_behaviour - step
    return (r * _normalised(positive, x0) + (1 - r) * _normalised(negative, x0)) / beta


def _normalised(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``(B,)`` mean squared error over its own mean absolute error, the latter without gradient, at least 1e-5.

    The floor, from the authors' code, only matters where a prediction is exact.
    """
    weight = (prediction - target).detach().double().abs().flatten(1).mean(1).clamp(min=1e-5).to(prediction.dtype)
    return ((prediction - target) ** 2 / over(weight, prediction)).flatten(1).mean(1)
