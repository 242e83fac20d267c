"""What every family of reward models that learns from votes has in common: a lesson goes in, a taught model comes out.

A family is one frozen dataclass whose fields are its hyperparameters and whose ``name`` is its tag in the config; what
its votes are, how it is measured and where it is written is the stage's business (see `train`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from rlhf_images.errors import BadInput
from rlhf_images.pictures import score_pictures
from rlhf_images.preferences.pairs import LabelledPair, Pairs
from rlhf_images.reward import Reward, Scores

from .comparisons import Comparisons, Split


@final
@dataclass(frozen=True)
class Lesson:
    """What a family is taught from. Only the pairs ``split.train`` may be learnt from, or chosen by."""

    pairs: Pairs
    """The folder, for its pictures."""
    labelled: Sequence[LabelledPair]
    """The pairs, in the order of ``data``."""
    data: Comparisons
    split: Split
    seed: int


@final
@dataclass(frozen=True)
class Taught:
    """A model that has learnt, and what it says of the lesson's ``N`` pictures."""

    model: Reward
    save: Callable[[Path], None]
    """Writes it into a folder."""
    score: Tensor
    """Of every picture of the lesson ``(N,)``, in float32 on the CPU; a difference is in log-odds."""
    evidence: Tensor | None = None
    """Of every picture ``(N, D)``, where the last layer of the model is linear on it and it was not learnt from votes:
    the learning curve is measured on it."""
    spread: float | None = None
    """A priori standard deviation of a score under the ridge on that layer; chosen anew for the curve if None."""
    tastes: Mapping[str, float] = field(default_factory=dict)
    """Log-odds of one standard deviation more of what has a name."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs on the card, as plain JSON values."""


def scored(model: Reward, lesson: Lesson, told: str) -> Scores:
    """Return what ``model`` says of every picture of ``lesson``, showing the progress as ``told``.

    Raises `BadInput` where it has no score for one.
    """
    paths = [lesson.pairs.folder / "images" / f"{picture}.png" for picture in lesson.data.ids]
    judged = score_pictures(model, paths, lesson.data.prompts, told=told)
    for row, reason in judged.failures.items():
        raise BadInput(f"picture {lesson.data.ids[row]}: the model has no score for it ({reason}); try again later")
    return judged.scores


class Family(ABC):
    """A way of learning from votes."""

    name: str
    """Its tag in the config."""

    @abstractmethod
    def taught(self, lesson: Lesson) -> Taught:
        """Return a model that has learnt from ``lesson``. Its randomness is torch's generator, seeded by the stage."""

    def decoded(self, pairs: Pairs) -> set[str]:
        """Return the ids of pictures that were seen to be readable before, and need not be decoded again."""
        del pairs
        return set()
