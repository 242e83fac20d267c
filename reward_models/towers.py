"""The family of two towers and a linear head: small ones learnt here, as in the demo, or a CLIP of your own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

import torch
from torch import nn

from .bradley_terry import BradleyTerryConfig, learn
from .comparisons import pictures
from .family import Family, Lesson, Taught
from .preference import PreferenceModel
from .recognise import RecogniseConfig, recognise

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 48, "layers": 3, "head_width": 24, "pool_type": "avg"},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
"""Two towers for pictures of 16×16 pixels, with open_clip's vocabulary."""
SMALL_TOWER = 10_000_000
"""Weights of an image tower below which one thread is best."""


@final
@dataclass(frozen=True)
class TowersConfig(Family):
    """An open_clip image and text tower, and a linear head on what they say: see `preference`."""

    name: Literal["towers"] = "towers"
    architecture: dict[str, Any] | str = field(default_factory=lambda: SMALL)
    """Two towers in open_clip's own words, the name of one of its models, or ``local-dir:`` and a folder of weights."""
    recognise: RecogniseConfig | None = field(default_factory=RecogniseConfig)
    """What the towers learn first, from captioned pictures; null where they come with weights."""
    bradley_terry: BradleyTerryConfig = field(default_factory=BradleyTerryConfig)
    """What the head learns from the votes."""

    def taught(self, lesson: Lesson) -> Taught:
        """Return a preference model that recognises captions and has learnt from the votes."""
        model = PreferenceModel.new(self.architecture)
        if torch.cuda.is_available():
            model.to("cuda")
        with suited_threads(model.network.clip.visual):
            seen = pictures(lesson.pairs, lesson.data, model.preprocessing.fitted, model.preprocessing.size)
            recognised = recognise(model, self.recognise, lesson.seed) if self.recognise else None
            score, evidence = learn(model, lesson.data, seen, lesson.split.train, self.bradley_terry, lesson.seed)
        frozen = None if self.bradley_terry.tower_lr else evidence
        told = {"recognised": asdict(recognised)} if recognised else {}
        return Taught(model, model.save, score, frozen, None, model.tastes(), told)


@contextmanager
def suited_threads(tower: nn.Module) -> Iterator[None]:
    """Give a model with a small image ``tower`` one thread for the time of the ``with``.

    Its matrices gain little from a second one, and where another process has that core, each of them waits for it: six
    times slower was measured. The result then does not depend on the number of cores either.
    """
    before = torch.get_num_threads()
    if sum(weights.numel() for weights in tower.parameters()) < SMALL_TOWER:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
