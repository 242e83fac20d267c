"""What the loop asks of every algorithm. After scoring, diffusion RL is supervised learning on independent examples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..batch import Batch
from ..generators import Generator
from ..math.path import Path
from ..randomness import Randomness
from ..reward import Reward
from ..sampling import Rollout
from ..snapshots import Snapshots

Gather = Callable[[Tensor, Sequence[int], int], Tensor]
"""``(values (B, …), rows, total) -> (total, …)``: row ``rows[i]`` is ``values[i]`` of the process that has it."""


@final
@dataclass(frozen=True)
class Scored:
    """What a step's P × K pictures scored, the same on every process, and which of them are ``mine`` (global indices).

    Where ``valid_PK`` is False the reward failed and the advantage is 0.
    """

    rewards_PK: Tensor
    valid_PK: Tensor
    advantages_PK: Tensor
    mine: list[int]
    gather: Gather

    def of_mine(self, values_PK: Tensor) -> Tensor:
        """Return this process's ``(B,)`` of values for all pictures."""
        return values_PK.flatten()[self.mine]


class Examples(Batch):
    """What an algorithm learns from. ``image`` holds the global index of the picture that each example came from."""

    image: list[int]


class Objective(ABC):
    """What an optimiser's step asks for: a loss an example."""

    @abstractmethod
    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``(N,)`` of each example, with gradient, and metrics ``(N,)`` without."""


class Algorithm(Objective):
    """A frozen dataclass of hyperparameters and these methods. It knows no model, reward or process."""

    name: str
    compares: ClassVar[bool] = True
    """Whether it learns from how a picture compares with its group; if not, a group may be a single picture."""
    within_groups: ClassVar[bool] = False
    """Whether it learns only from how the pictures of one group differ, so that a group needs two or more."""
    differentiates_reward: ClassVar[bool] = False
    """Whether its loss needs the gradient of the reward with respect to the picture."""

    def check(self, steps: int) -> None:
        """Raise ValueError where the hyperparameters do not fit a schedule of ``steps`` sampling steps."""

    def check_path(self, path: Path) -> None:
        """Raise `BadInput` where it is not made for generators of this noise ``path``."""

    @abstractmethod
    def snapshots(self) -> tuple[str, ...]:
        """Return the names of the snapshots it needs; each starts as the weights at step 0."""

    @abstractmethod
    def rollout(
        self,
        generator: Generator,
        snapshots: Snapshots,
        prompts: Sequence[str],
        index: Sequence[int],
        randomness: Randomness,
        micro_size: int,
    ) -> Rollout:
        """Return sampled pictures of ``prompts``, whose global indices are ``index``."""

    @abstractmethod
    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Examples:
        """Return the examples that this process's pictures give."""

    @abstractmethod
    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Move the snapshots after the last update of ``step``."""
