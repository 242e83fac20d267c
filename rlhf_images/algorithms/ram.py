"""RAM (2026, "Reinforce Adjoint Matching"): regress the velocity on the reference's, moved along the advantage.

The optimum of reward minus KL satisfies v = v_ref + m·E[A·(v* − v)], so the network is regressed on the right side,
estimated at finished pictures under fresh noise: v → sg(v_ref + m·A·(v* − v_old)). A consistency loss: no SDE, no
likelihood, no gradient of the reward; m plays 1/KL-weight.

Where we differ from the paper: v_old is the behaviour policy that drew the picture.
"""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from ..config import Positive
from ..generators import Generator
from ..math import objectives
from ..math.path import Prediction
from ..snapshots import Snapshots
from .forward_process import ForwardProcess, Noised


@final
@dataclass(frozen=True)
class RAM(ForwardProcess):
    """Hyperparameters of Reinforce Adjoint Matching."""

    name: Literal["ram"] = "ram"
    multiplier: Positive = 100.0
    """m: how far the optimum may lie from the reference; the inverse of a KL weight."""
    advantage_clip: Positive = 5.0
    """Advantages beyond this count as this."""

    def snapshots(self) -> tuple[str, ...]:
        """Return the behaviour policy and the reference."""
        return ("behaviour", "reference")

    def noised_loss(
        self, generator: Generator, snapshots: Snapshots, batch: Noised
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ‖v − sg(v_ref + m·A·(v* − v_old))‖², and ``kl``: ‖v − v_ref‖²."""
        path, asked = generator.path, (batch.prompts, batch.x, batch.t)
        with snapshots.use("behaviour"):
            old = path.velocity(generator.predict(*asked), batch.t)
        with snapshots.use("reference"):
            reference = path.velocity(generator.predict(*asked), batch.t)
        new = path.velocity(generator.predict(*asked), batch.t)
        truth = path.velocity(Prediction(batch.x0, batch.eps), batch.t)
        advantage = batch.weight.clamp(-self.advantage_clip, self.advantage_clip)
        loss = objectives.adjoint_matching(new, reference, old, truth, self.multiplier * advantage)
        return loss, {"kl": objectives.squared_error(new, reference).detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Let the behaviour policy be the new one."""
        del step
        snapshots.move("behaviour", keep=0.0)
