"""Objectives: the losses of the papers, one value a sample, so that the caller owns every mean."""

from torch import Tensor

from .path import over


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Return ``(B,)`` mean over elements of (a − b)²."""
    return ((a - b) ** 2).flatten(1).mean(1)


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
