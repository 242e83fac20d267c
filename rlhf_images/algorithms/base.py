"""What the loop asks of every algorithm. After scoring, diffusion RL is supervised learning on independent examples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from ..batch import Batch
from ..generators import Generator
from ..randomness import Randomness
from ..sampling import Rollout
from ..snapshots import Snapshots


class Examples(Batch):
    """What an algorithm learns from. ``image`` holds the global index of the picture that each example came from."""

    image: list[int]


class Algorithm(ABC):
    """A frozen dataclass of hyperparameters and these methods. It knows no model, reward or process."""

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
    def examples(self, rollout: Rollout, advantages: Tensor, generator: Generator, randomness: Randomness) -> Examples:
        """Return the examples that pictures with ``advantages (B,)`` give. Their number a picture is a constant."""

    @abstractmethod
    def loss(self, generator: Generator, snapshots: Snapshots, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``(N,)`` of each example, with gradient, and metrics ``(N,)`` without."""

    @abstractmethod
    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Move the snapshots after the last update of ``step``."""
