"""Flow-GRPO (Liu et al. 2025, "Flow-GRPO: Training Flow Matching Models via Online RL"), and its relatives by setting.

A flow model's ODE becomes an SDE with the same marginals, so that each sampling step is a Gaussian policy; advantages
are compared within groups of pictures of one prompt; each drawn step is a PPO example: maximise
min(A·r, A·clip(r, 1 ± clip)), r = π(x'|x)/π_behaviour(x'|x).

``window: {size: 2, placed: random, within: 0.5}`` is Flow-GRPO-Fast, ``{size: 4, placed: sliding}`` MixGRPO,
``kernel: dance_sde`` DanceGRPO, ``kernel: cps`` Flow-CPS.

Where we differ from the authors' code: the KL is the Gaussians' own, with dt, which the code leaves out (multiply
its weight by the step's −dt); CPS's log-probability keeps its 1/(2·std²), so one clip range serves all kernels.
"""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..config import Positive, Weight
from ..math import objectives
from ..math.kernels import Gaussian
from .policy_gradient import PolicyGradient, Transitions


@final
@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """Hyperparameters of Flow-GRPO; the defaults are the authors', the KL weight theirs (0.04) at ten even steps."""

    name: Literal["grpo"] = "grpo"
    clip: Positive = 1e-4
    """The ratio earns nothing more beyond 1 ± clip. So small because log-probabilities are means over elements."""
    kl_weight: Weight = 4e-3

    def surrogate(self, new: Gaussian, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped surrogate."""
        log_ratio = new.log_prob(batch.x_next) - batch.behaviour.log_prob(batch.x_next)
        loss, clipped = objectives.clipped_surrogate(log_ratio, batch.advantage, self.clip)
        return loss, {"policy_loss": loss.detach(), "ratio": log_ratio.detach().exp(), "clip_ratio": clipped}
