"""AWM (Xue et al. 2025, "Advantage Weighted Matching"): policy gradient whose likelihood is the denoising loss.

The evidence bound of a finished picture at (t, eps) is −‖v − v*‖² up to constants, with v* the velocity from the true
x0 and noise. Its change from the behaviour policy to the new one, at the *same* (t, eps), is the log-ratio of a
clipped surrogate: RL with the very loss the model was pretrained with, so no SDE is needed.

Where we differ from the authors' code: the times are stratified over the schedule and uniformly weighted (the paper's
best), and the pull to a lagging average, without which long runs collapse, is on whatever `kl_weight` is.
"""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..config import Fraction, Positive, Weight
from ..generators import Generator
from ..math import objectives
from ..snapshots import Snapshots
from .forward_process import ForwardProcess, Noised, denoising_error, distance


@final
@dataclass(frozen=True)
class AWM(ForwardProcess):
    """Hyperparameters of Advantage Weighted Matching; the defaults are the authors'."""

    name: Literal["awm"] = "awm"
    times_per_image: int = 6
    clip: Positive = 1.0
    """The ratio earns nothing more beyond 1 ± clip."""
    advantage_clip: Positive = 5.0
    """Advantages are divided by this, and those beyond ± 1 count as that: so they weigh against the two pulls."""
    kl_weight: Weight = 3e-3
    """Of the squared distance in velocity to the reference. 0 saves a forward pass."""
    lag_weight: Weight = 1.0
    """Of the squared distance in velocity to a lagging copy of the policy. 0 saves a forward pass."""
    lag_rate: Weight = 0.001
    """The lagging copy keeps min(rate·step, max) of itself after each step."""
    lag_max: Fraction = 0.3
    """See `lag_rate`."""

    def snapshots(self) -> tuple[str, ...]:
        """Return the behaviour policy, and the anchors whose weight is on."""
        anchors = {"reference": self.kl_weight, "lagging": self.lag_weight}
        return ("behaviour", *(name for name, weight in anchors.items() if weight))

    def noised_loss(
        self, generator: Generator, snapshots: Snapshots, batch: Noised
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped surrogate of A and the two pulls; metrics ``policy_loss``, ``clip_ratio``, ``kl``."""
        with snapshots.use("behaviour"):
            old = generator.predict(batch.prompts, batch.x, batch.t)
        new = generator.predict(batch.prompts, batch.x, batch.t)
        before, after = (denoising_error(generator.path, p, batch.x0, batch.eps, batch.t) for p in (old, new))
        log_ratio = before - after
        advantage = (batch.weight / self.advantage_clip).clamp(-1, 1)
        loss, clipped = objectives.clipped_surrogate(log_ratio, advantage, self.clip)
        metrics = {"policy_loss": loss.detach(), "clip_ratio": clipped}
        if self.lag_weight:
            loss = loss + self.lag_weight * distance(generator, snapshots, "lagging", batch, new)
        if self.kl_weight:
            kl = distance(generator, snapshots, "reference", batch, new)
            loss, metrics["kl"] = loss + self.kl_weight * kl, kl.detach()
        return loss, metrics

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Let the behaviour policy be the new one, and the lagging copy follow."""
        snapshots.move("behaviour", keep=0.0)
        if self.lag_weight:
            snapshots.move("lagging", keep=min(self.lag_rate * step, self.lag_max))
