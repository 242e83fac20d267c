"""HPSv2 and HPSv2.1 (Wu et al. 2023): a CLIP ViT-H/14 fine-tuned on 798,000 choices; two versions, one architecture.

    score = cos(picture, prompt)

The picture is letterboxed, not cropped: the score sees all of it. ``hpsv2@FILE``: the published
HPS_v2_compressed.pt; ``hpsv2_1@FILE``: HPS_v2.1_compressed.pt; in open_clip's layout.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .clip import OPEN_CLIP_FILES, Clip
from .resize import letterboxed
from .weights import located

REPOSITORY = "xswu/HPSv2"


@final
class HPSv2(Reward):
    """About 0.2 to 0.35 for ordinary pictures; the published models were trained with 100 times it as log-odds."""

    can = Capabilities(differentiable=True)

    def __init__(self, clip: Clip, name: str) -> None:
        self.clip, self.name = clip, name

    @classmethod
    def load(cls, source: str | None = None) -> "HPSv2":
        """Return version 2.0 with the weights of ``source``, or with the hub's."""
        return cls._load(source, "hpsv2", "HPS_v2_compressed.pt")

    @classmethod
    def load_2_1(cls, source: str | None = None) -> "HPSv2":
        """Return version 2.1 with the weights of ``source``, or with the hub's."""
        return cls._load(source, "hpsv2_1", "HPS_v2.1_compressed.pt")

    @classmethod
    def _load(cls, source: str | None, name: str, file: str) -> "HPSv2":
        path = located(source, (file, *OPEN_CLIP_FILES), REPOSITORY, name)
        return cls(Clip.load(path, "ViT-H-14", letterboxed), name)

    @property
    def id(self) -> str:
        """Return the scorer's name and a hash of its weights and preprocessing."""
        return identity(self.name, self.clip.id)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``, with gradient to the pixels."""
        return Scores.of(self.clip.cosine(images, prompts))

    def features(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of the pictures."""
        return self.clip.images(images)

    def to(self, device: torch.device | str) -> "HPSv2":
        """Return the scorer with its weights on ``device``."""
        self.clip.to(device)
        return self
