"""GRPO-Guard (Wang et al. 2025, "GRPO-Guard: Mitigating Implicit Over-Optimization via Regulated Clipping").

With z the noise that drew a step and Δ = μ − μ_behaviour, Flow-GRPO's log-ratio is Δ·z/std − Δ²/(2·std²): its mean is
negative and its size hangs on the time, so the clip acts on one side and on some steps only. Here the bias is added
back and the ratio scaled by std: log r̃ = std·(log r + Δ²/(2·std²)) = mean(Δ·z), centred, and alike at every time.
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
class GRPOGuard(PolicyGradient):
    """Hyperparameters of GRPO-Guard; the clip is the authors', the KL weight Flow-GRPO's."""

    name: Literal["grpo_guard"] = "grpo_guard"
    clip: Positive = 2e-6
    """The regulated ratio earns nothing more beyond 1 ± clip; smaller than Flow-GRPO's, for it is scaled by std."""
    kl_weight: Weight = 4e-3

    def surrogate(self, new: Gaussian, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped surrogate of the regulated ratio."""
        log_ratio = objectives.regulated_log_ratio(new, batch.behaviour, batch.x_next)
        loss, clipped = objectives.clipped_surrogate(log_ratio, batch.advantage, self.clip)
        return loss, {"policy_loss": loss.detach(), "ratio": log_ratio.detach().exp(), "clip_ratio": clipped}
