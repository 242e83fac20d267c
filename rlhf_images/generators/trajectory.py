"""What a pipeline's sampling leaves."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from ..math.kernels import Gaussian
from .batches import Parts, whole


@final
@dataclass(frozen=True)
class Trajectory:
    """What a call left.

    ``images (B, 3, H, W)`` in [0, 1], T + 1 latents ``x_TB`` at ``times``, and the T ``gaussians`` that they were drawn
    from, of std 0 where a step was deterministic.
    """

    images: Tensor
    x_TB: list[Tensor]
    times: Tensor
    gaussians: list[Gaussian]


def joined(parts: Parts[Trajectory]) -> Trajectory:
    """Return the trajectory of a batch of those of its parts, which took the same steps."""
    first = parts[0][1]
    steps = range(len(first.gaussians))
    return Trajectory(
        whole([(rows, part.images) for rows, part in parts]),
        [whole([(rows, part.x_TB[i]) for rows, part in parts]) for i in range(len(first.x_TB))],
        first.times,
        [
            Gaussian(
                whole([(rows, part.gaussians[i].mean) for rows, part in parts]),
                whole([(rows, part.gaussians[i].std) for rows, part in parts]),
            )
            for i in steps
        ],
    )
