"""The family of a linear head on frozen features: how it learns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import torch

from rlhf_images.config import Positive
from rlhf_images.errors import BadInput
from rlhf_images.preferences.pairs import Pairs

from .cross_validation import Chosen
from .extractors import Blocks, Extractor, FeaturesConfig, extractors
from .family import Family, Lesson, Taught
from .feature_cache import FeatureCache, decoded_before
from .head import Head, Learnt, Scale, directions
from .ridge import weighed


@final
@dataclass(frozen=True)
class HeadConfig(Family):
    """A ridge Bradley–Terry model with ties on frozen features: the first choice for up to a few thousand votes."""

    name: Literal["head"] = "head"
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """What it looks at."""
    spread: Positive | None = None
    """Standard deviation of a score in log-odds, a priori: less is more cautious. Where not given, the one under which
    votes that were left out are likeliest (cross-validation that keeps the pairs of a prompt together)."""

    def taught(self, lesson: Lesson) -> Taught:
        """Return a head that has learnt from the votes, calibrated on those left out."""
        made = extractors(self.features)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for extractor in made.values():
            extractor.to(device)
        blocks = features_of(lesson, made, device)
        learnt, chosen = learn(blocks, lesson, self.spread)
        sizes = {name: block.shape[1] for name, block in blocks.items()}
        head = Head(self.features, made, learnt, sizes)
        with torch.no_grad():
            x = learnt.scale(torch.cat(list(blocks.values()), 1), list(sizes.values()))
            score = x @ learnt.weights
        told = {
            "features": sum(sizes.values()),
            "spread": round(chosen.spread, 4),
            "temperature": round(chosen.temperature, 4),
            "tie_width": round(learnt.width, 4),
            "folds": chosen.folds,
        }
        return Taught(head.to(device), head.save, score, x, chosen.spread, head.tastes(), told)

    def decoded(self, pairs: Pairs) -> set[str]:
        """Return the pictures of which features are kept."""
        return decoded_before(pairs)


def features_of(lesson: Lesson, made: Mapping[str, Extractor], device: str) -> Blocks:
    """Return the features of every picture of ``lesson`` ``(N, D)``, block by block."""
    found: Blocks = {}
    for name, extractor in made.items():
        cache = FeatureCache(lesson.pairs, extractor)
        for block, values in cache.blocks(lesson.data.ids, lesson.data.prompts, device).items():
            if not bool(torch.isfinite(values).all()):
                row = int((~torch.isfinite(values).all(1)).nonzero()[0, 0])
                raise BadInput(
                    f"picture {lesson.data.ids[row]}: '{name}' gives features that are not finite; take its pairs out,"
                    " or leave those features out"
                )
            found[block] = values
    return found


def learn(blocks: Blocks, lesson: Lesson, spread: float | None) -> tuple[Learnt, Chosen]:
    """Return what the training pairs of ``lesson`` teach about ``blocks`` of features, and how that was chosen."""
    shown = lesson.data.shown(lesson.split.train)
    scale = Scale.of({name: block[shown] for name, block in blocks.items()})
    sizes = [block.shape[1] for block in blocks.values()]
    x = scale(torch.cat(list(blocks.values()), 1), sizes).double()
    found = weighed(x, lesson, spread, directions(x.shape[1]))
    posterior = found.posterior.to("cpu", torch.float32)
    return Learnt(scale, found.weights.float(), found.chosen.width, posterior), found.chosen
