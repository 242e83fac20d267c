"""How well a picture fits its prompt by a CLIP: CLIPScore as published (Hessel et al. 2021), and the plain cosine.

    clip_score       = 2.5 · max(cos(picture, "A photo depicts " + prompt), 0)    with OpenAI's ViT-B/32
    clip_similarity  = cos(picture, prompt)                                         with any CLIP

``clip_score@FILE``: OpenAI's ViT-B/32 in open_clip's or Hugging Face's layout. ``clip_similarity@FOLDER``: an open_clip
``local-dir``. Neither was taught what people like.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .clip import HUGGING_FACE_FILES, OPEN_CLIP_FILES, Clip
from .weights import located

REPOSITORY = "timm/vit_base_patch32_clip_224.openai"
WEIGHT, PREFIX = 2.5, "A photo depicts "


@final
class ClipScore(Reward):
    """0 to 2.5, in practice 0.5 to 1."""

    can = Capabilities(differentiable=True)

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    @classmethod
    def load(cls, source: str | None = None) -> "ClipScore":
        """Return the scorer with the weights of ``source``, or with the hub's."""
        path = located(source, (*OPEN_CLIP_FILES, *HUGGING_FACE_FILES), REPOSITORY, "clip_score")
        return cls(Clip.load(path, "ViT-B-32-quickgelu"))

    @property
    def id(self) -> str:
        """Return the scorer's name and a hash of its weights and preprocessing."""
        return identity("clip_score", self.clip.id)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``; below 0 the gradient passes as if there were no maximum, or it would be lost."""
        cosine = self.clip.cosine(images, [PREFIX + prompt for prompt in prompts])
        return Scores.of(WEIGHT * (cosine + (cosine.clamp(min=0) - cosine).detach()))

    def features(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of the pictures."""
        return self.clip.images(images)

    def to(self, device: torch.device | str) -> "ClipScore":
        """Return the scorer with its weights on ``device``."""
        self.clip.to(device)
        return self


@final
class ClipSimilarity(Reward):
    """-1 to 1, in practice 0.1 to 0.4: what a regulariser or a check of prompt fidelity wants."""

    can = Capabilities(differentiable=True)

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    @classmethod
    def load(cls, folder: str) -> "ClipSimilarity":
        """Return the cosine by the CLIP of ``folder``."""
        return cls(Clip.of_folder(folder))

    @property
    def id(self) -> str:
        """Return the reward's name and a hash of its weights and preprocessing."""
        return identity("clip_similarity", self.clip.id)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the cosines ``(B,)``, with gradient to the pixels."""
        return Scores.of(self.clip.cosine(images, prompts))

    def features(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of the pictures."""
        return self.clip.images(images)

    def to(self, device: torch.device | str) -> "ClipSimilarity":
        """Return the reward with its weights on ``device``."""
        self.clip.to(device)
        return self
