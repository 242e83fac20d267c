"""LAION's aesthetic predictor, versions 1 and 2 (Schuhmann 2022): how a picture would be rated from 1 to 10.

    score = w · f + b,    f the normalised embedding of OpenAI's CLIP ViT-L/14

Version 2 is published as a "multilayer perceptron" of five layers, but without activations: it is one vector and one
number, to which it is collapsed here in float64. The prompt is not looked at.

``aesthetic@FOLDER``: the head (aesthetic-model.pth, or sac+logos+ava1-l14-linearMSE.pth, or version 1's
sa_0_4_vit_l_14_linear.pth) and the CLIP (open_clip_model.safetensors, or Hugging Face's model.safetensors) together.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .clip import HUGGING_FACE_FILES, OPEN_CLIP_FILES, Clip
from .weights import located, read_weights

HEAD_FILES = (
    "aesthetic-model.pth",
    "aesthetic-model.safetensors",
    "sac+logos+ava1-l14-linearMSE.pth",
    "sa_0_4_vit_l_14_linear.pth",
)
HEAD_REPOSITORY = "trl-lib/ddpo-aesthetic-predictor"
CLIP_REPOSITORY = "timm/vit_large_patch14_clip_224.openai"


@final
class Aesthetic(Reward):
    """About 4 to 7 for ordinary pictures."""

    can = Capabilities(differentiable=True)

    def __init__(self, clip: Clip, weight: Tensor, bias: Tensor) -> None:
        self.clip, self.weight, self.bias = clip, weight, bias

    @classmethod
    def load(cls, source: str | None = None) -> "Aesthetic":
        """Return the scorer with the weights in folder ``source``, or with the hub's."""
        if source is not None and not Path(source).is_dir():
            raise BadInput(f"aesthetic@{source}: wants a folder with the head and its CLIP, ViT-L/14")
        head = located(source, HEAD_FILES, HEAD_REPOSITORY, "aesthetic")
        path = located(source, (*OPEN_CLIP_FILES, *HUGGING_FACE_FILES), CLIP_REPOSITORY, "aesthetic")
        clip = Clip.load(path, "ViT-L-14-quickgelu")
        weight, bias = collapsed(read_weights(head), head)
        if len(weight) != clip.architecture["embed_dim"]:
            raise BadInput(
                f"{head}: a head for {len(weight)} features, and {path} gives {clip.architecture['embed_dim']};"
                f" put the CLIP that it was made for beside it: {CLIP_REPOSITORY}"
            )
        return cls(clip, weight, bias)

    @property
    def id(self) -> str:
        """Return the scorer's name and a hash of its weights and preprocessing."""
        return identity("aesthetic", self.clip.id, repr(self.weight.tolist()), repr(self.bias.item()))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the ratings ``(B,)``, with gradient to the pixels."""
        del prompts
        return Scores.of((self.clip.images(images) * self.weight).sum(-1) + self.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of the pictures."""
        return self.clip.images(images)

    def to(self, device: torch.device | str) -> "Aesthetic":
        """Return the scorer with its weights on ``device``."""
        self.clip.to(device)
        self.weight, self.bias = self.weight.to(device), self.bias.to(device)
        return self


def collapsed(state: dict[str, Tensor], source: object) -> tuple[Tensor, Tensor]:
    """Return the vector ``(E,)`` and the number that a chain of linear layers ending in one output amounts to."""
    layers = [name.removesuffix("weight") for name in state if name.endswith("weight")]
    layers.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    weight, bias = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    try:
        for name in reversed(layers):
            bias = bias + weight @ state[f"{name}bias"].double()
            weight = weight @ state[f"{name}weight"].double()
    except (KeyError, RuntimeError):
        raise BadInput(f"{source}: not a chain of linear layers ending in one score; take the published file") from None
    return weight[0].float(), bias[0].float()
