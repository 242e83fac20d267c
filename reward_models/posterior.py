"""How sure a head is: Laplace's Gaussian around its weights, Σ = (H + ridge · I)⁻¹, in as few numbers as go on disk."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Posterior:
    """Σ = rest · I + Σᵢ (varianceᵢ − rest) basisᵢ basisᵢᵀ, the ``basis (K, D)`` being orthonormal.

    Exact where K = D, or where nothing was seen outside of the basis, so that ``rest`` is the prior's variance there.
    Otherwise ``rest`` is the mean variance of the directions left out: the trace is always right.
    """

    basis: Tensor
    variance: Tensor
    rest: float

    @classmethod
    def of(cls, hessian: Tensor, ridge: float, span: Tensor | None, keep: int) -> "Posterior":
        """Return (H + ridge)⁻¹ for ``hessian (K, K)`` of the loss, in at most ``keep`` directions, the best known ones.

        ``span (D, K)`` are the orthonormal directions in which the Hessian is told; outside of it nothing was seen.
        """
        values, vectors = torch.linalg.eigh(hessian)
        variance = 1 / (values.clamp(min=0) + ridge)
        basis = (vectors if span is None else span @ vectors).T
        kept = min(keep, len(variance))
        unseen = basis.shape[1] - len(variance)
        left_out = variance[: len(variance) - kept]
        total = float(left_out.sum()) + unseen / ridge
        rest = total / (len(left_out) + unseen) if len(left_out) + unseen else 1 / ridge
        return cls(basis[len(variance) - kept :], variance[len(variance) - kept :], rest)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Posterior":
        """Return the same on another device, in another precision."""
        return Posterior(self.basis.to(device, dtype), self.variance.to(device, dtype), self.rest)

    def scaled(self, factor: float) -> "Posterior":
        """Return the posterior of ``factor`` times the weights."""
        return Posterior(self.basis, self.variance * factor**2, self.rest * factor**2)

    def std(self, x: Tensor) -> Tensor:
        """Return the standard deviation ``(B,)`` of ``x @ w`` for ``x (B, D)``."""
        std: Tensor = self.factors(x).square().sum(1).clamp(min=1e-12).sqrt()
        return std

    def factors(self, x: Tensor) -> Tensor:
        """Return Σ^½ x for each row ``(B, D)``: their products are the covariances of the scores.

        Roots are subtracted here, not variances: what is known well, under a wide prior, keeps its digits in float32.
        """
        inside = (x @ self.basis.T) * (self.variance.sqrt() - self.rest**0.5)
        factors: Tensor = self.rest**0.5 * x + inside @ self.basis
        return factors
