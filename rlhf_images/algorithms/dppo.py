"""Flow-DPPO (2026): a policy gradient whose trust region is the divergence itself, not the sampled ratio.

A ratio is one noisy sample of how far the policy went; between Gaussians the divergence is known exactly. So nothing is
clipped: −A·r, and a step is masked once its divergence is beyond a bound *and* its gradient leads further away.
"""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..config import Positive
from ..math import objectives
from ..math.kernels import Gaussian
from .policy_gradient import PolicyGradient, Transitions


@final
@dataclass(frozen=True)
class DPPO(PolicyGradient):
    """Hyperparameters of Flow-DPPO; the defaults are the authors'."""

    name: Literal["dppo"] = "dppo"
    bound: Positive = 1e-5
    """Of the divergence KL(policy ‖ behaviour), a mean over latent elements."""

    def surrogate(self, new: Gaussian, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return −A·r where the step may still be learnt, else 0."""
        log_ratio = new.log_prob(batch.x_next) - batch.behaviour.log_prob(batch.x_next)
        loss, masked = objectives.divergence_masked(log_ratio, new.kl(batch.behaviour), batch.advantage, self.bound)
        return loss, {"policy_loss": loss.detach(), "ratio": log_ratio.detach().exp(), "clip_ratio": masked}
