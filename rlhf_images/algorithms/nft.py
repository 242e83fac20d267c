"""DiffusionNFT (Zheng et al. 2025, "Online Diffusion Reinforcement with Forward Process").

Sample with any solver from the behaviour policy, without guidance; noise the finished latents afresh; and pull an
implicit positive policy towards the good ones and an implicit negative policy towards the bad ones. No likelihoods, no
stored trajectories, any noise path.

Where we differ from the authors' code: times are stratified over the sampling schedule instead of being its points, so
that a few a picture cover it; and everything is written in x0, which is the same thing (see `objectives.nft`) and holds
on a variance-preserving path too.
"""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..config import Fraction, Positive, Weight
from ..generators import Generator
from ..math import objectives
from ..snapshots import Snapshots
from .forward_process import ForwardProcess, Noised, distance


@final
@dataclass(frozen=True)
class NFT(ForwardProcess):
    """Hyperparameters of DiffusionNFT; the defaults are the authors', but for ``beta``."""

    name: Literal["nft"] = "nft"
    beta: Positive = 0.3
    """How far the implicit policies lie from the behaviour policy; smaller is a stronger pull. The authors' 1 (0.1 for
    OCR) moves a prediction by no more than 2r − 1 of its way to the picture: a third of the gain in a short run."""
    advantage_clip: Positive = 5.0
    """Advantages beyond this count as this; it also scales the policy loss against the KL."""
    kl_weight: Weight = 1e-4
    """Of the squared distance in velocity to the reference. 0 saves a forward pass."""
    decay_rate: Weight = 0.001
    """The behaviour policy keeps min(rate·step, max) of itself after each step: on-policy at first, lagging later."""
    decay_max: Fraction = 0.5
    """See `decay_rate`."""

    def snapshots(self) -> tuple[str, ...]:
        """Return the behaviour policy, and the reference where the KL is on."""
        return ("behaviour", "reference") if self.kl_weight else ("behaviour",)

    def noised_loss(
        self, generator: Generator, snapshots: Snapshots, batch: Noised
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return clip·nft + kl_weight·‖v − v_ref‖², and ``policy_loss`` and ``kl`` apart."""
        with snapshots.use("behaviour"):
            behaviour = generator.predict(batch.prompts, batch.x, batch.t)
        new = generator.predict(batch.prompts, batch.x, batch.t)
        r = objectives.optimality(batch.weight, self.advantage_clip)
        policy = self.advantage_clip * objectives.nft(new.x0, behaviour.x0, batch.x0, r, self.beta)
        if not self.kl_weight:
            return policy, {"policy_loss": policy.detach()}
        kl = distance(generator, snapshots, "reference", batch, new)
        return policy + self.kl_weight * kl, {"policy_loss": policy.detach(), "kl": kl.detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Let the behaviour policy follow."""
        snapshots.move("behaviour", keep=min(self.decay_rate * step, self.decay_max))
