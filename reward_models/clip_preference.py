"""A CLIP that was fine-tuned on votes, in the manner of PickScore and HPSv2, and its folder.

    score = exp(logit_scale) · cos(picture, prompt) + head · picture,    P(a is preferred to b) = σ(score_a - score_b)

The head, if there is one, is linear on the picture's normalised embedding. The folder is open_clip's ``local-dir``, so
open_clip reads it as any CLIP; our reward.json and the head lie beside.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rlhf_images.reward import Capabilities, Reward, Scores, identity

from . import saved
from .architecture import Towers, new_towers
from .clip import Clip

FORMAT = "rlhf-images clip 1"
WEIGHTS, HEAD = "open_clip_model.safetensors", "head.safetensors"


@final
class ClipPreference(Reward):
    """Scores in log-odds: a difference of two for one prompt says how likely the first is preferred."""

    can = Capabilities(differentiable=True, trainable=True)
    log_odds = True

    def __init__(self, towers: Towers, head: Tensor | None = None, reference: Tensor | None = None) -> None:
        self.clip = Clip(towers)
        self.head = head
        """The weights of the picture's embedding ``(E,)``, or None."""
        self.reference = torch.zeros(0) if reference is None else reference

    @property
    def id(self) -> str:
        """Return a hash of the weights and preprocessing."""
        return identity("clip", self.clip.id, b"" if self.head is None else self.head.cpu().numpy().tobytes())

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``, with gradient to the pixels."""
        embedded = self.clip.images(images)
        with torch.autocast(embedded.device.type, enabled=False):
            return Scores.of(scores_of_embedded(self.clip.model, embedded, self.clip.texts(prompts), self.head))

    def features(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of the pictures."""
        return self.clip.images(images)

    def to(self, device: torch.device | str) -> "ClipPreference":
        """Return the model with its weights on ``device``."""
        self.clip.to(device)
        self.head = None if self.head is None else self.head.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write what open_clip reads, the head, and last reward.json with the hashes of both."""
        files = {WEIGHTS: save(_plain(self.clip.model.state_dict()))}
        if self.head is not None:
            files[HEAD] = save(_plain({"head": self.head}))
        preprocessing = self.clip.preprocessing
        clip = {
            "model_cfg": self.clip.architecture,
            "preprocess_cfg": {
                "size": preprocessing.size,
                "mode": "RGB",
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        }
        told = {"format": FORMAT, "sha256": {name: saved.sha256(data) for name, data in files.items()}}
        files["open_clip_config.json"] = json.dumps(clip, indent=2).encode()
        saved.write(folder, files, told, self.reference)

    @classmethod
    def load(cls, folder: str) -> "ClipPreference":
        """Return the model of ``folder``. Raises `BadInput` for one that is damaged."""
        told = saved.described(Path(folder), FORMAT)
        with saved.damage_told(Path(folder)):
            hashes, head = dict(told["sha256"]), None
            saved.checked(Path(folder) / WEIGHTS, hashes[WEIGHTS])
            if HEAD in hashes:
                head = load_file(saved.checked(Path(folder) / HEAD, hashes[HEAD]))["head"]
            return cls(new_towers(f"local-dir:{folder}"), head, torch.tensor(told["reference"], dtype=torch.float32))


def scores_of_embedded(clip: Any, images: Tensor, texts: Tensor, head: Tensor | None) -> Tensor:
    """Return the scores ``(B,)`` of normalised embeddings ``(B, E)`` of pictures and their prompts."""
    scores: Tensor = clip.logit_scale.exp() * (images * texts).sum(-1)
    return scores if head is None else scores + images @ head


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


@final
class Network(nn.Module):
    """The towers and the head while they learn."""

    def __init__(self, clip: nn.Module, head: bool, embed: int) -> None:
        super().__init__()
        self.clip: Any = clip
        self.head = nn.Parameter(torch.zeros(embed)) if head else None

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Return the scores ``(2B,)`` of normalised ``pixels (2B, 3, S, S)`` for ``tokens (B, L)`` of B prompts."""
        normalize = nn.functional.normalize
        texts = normalize(self.clip.encode_text(tokens), dim=-1)
        images = normalize(self.clip.encode_image(pixels), dim=-1)
        return scores_of_embedded(self.clip, images, texts.repeat(len(images) // len(texts), 1), self.head)
