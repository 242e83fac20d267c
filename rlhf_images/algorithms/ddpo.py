"""DDPO (Black et al. 2024, "Training Diffusion Models with Reinforcement Learning"), importance-sampling variant.

Sampling with DDPM's noise (DDIM, η = 1) is a Markov decision process whose every step is a Gaussian policy; each step
is a PPO example with the picture's advantage. The authors compare a picture with the recent ones of the same prompt:
``advantage: per_prompt`` in the run's config does that, and then needs no groups.

Where we differ from the authors' code: on a rectified flow the same kernel is used in its general form; log-probability
and latents stay in float32, so the first ratio is 1; steps without noise are not trained.
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
class DDPO(PolicyGradient):
    """Hyperparameters of DDPO; the defaults are the authors'."""

    name: Literal["ddpo"] = "ddpo"
    kernel: Literal["auto", "flow_sde", "dance_sde", "cps", "ddim"] = "ddim"
    clip: Positive = 1e-4
    """The ratio earns nothing more beyond 1 ± clip. So small because log-probabilities are means over elements."""

    def surrogate(self, new: Gaussian, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return max(−A·r, −A·clip(r, 1 ± clip))."""
        log_ratio = new.log_prob(batch.x_next) - batch.behaviour.log_prob(batch.x_next)
        loss, clipped = objectives.clipped_surrogate(log_ratio, batch.advantage, self.clip)
        return loss, {"policy_loss": loss.detach(), "ratio": log_ratio.detach().exp(), "clip_ratio": clipped}
