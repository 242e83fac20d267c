"""PickScore (Kirstain et al. 2023): a CLIP ViT-H/14 fine-tuned on half a million choices between two pictures.

    score = exp(logit_scale) · cos(picture, prompt),    P(a is preferred to b) = σ(score_a - score_b)

``pickscore@FILE`` or ``pickscore@FOLDER``: the published model.safetensors, in Hugging Face's layout or open_clip's.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .clip import HUGGING_FACE_FILES, OPEN_CLIP_FILES, Clip
from .weights import located

REPOSITORY = "yuvalkirstain/PickScore_v1"


@final
class PickScore(Reward):
    """About 17 to 24 for ordinary pictures; a difference of two scores for one prompt is in log-odds."""

    can = Capabilities(differentiable=True)
    log_odds = True

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    @classmethod
    def load(cls, source: str | None = None) -> "PickScore":
        """Return the scorer with the weights of ``source``, or with the hub's."""
        path = located(source, (*HUGGING_FACE_FILES, *OPEN_CLIP_FILES), REPOSITORY, "pickscore")
        return cls(Clip.load(path, "ViT-H-14"))

    @property
    def id(self) -> str:
        """Return the scorer's name and a hash of its weights and preprocessing."""
        return identity("pickscore", self.clip.id)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``, with gradient to the pixels."""
        scale = self.clip.model.get_parameter("logit_scale").exp()
        return Scores.of(scale * self.clip.cosine(images, prompts))

    def features(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of the pictures."""
        return self.clip.images(images)

    def to(self, device: torch.device | str) -> "PickScore":
        """Return the scorer with its weights on ``device``."""
        self.clip.to(device)
        return self
