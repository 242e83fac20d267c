"""A CLIP as scorers use it: pictures and prompts to normalised embeddings, with gradient to the pixels."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import final

import open_clip  # type: ignore[import-untyped,unused-ignore]
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rlhf_images.reward import identity

from .architecture import CONFIG, Towers, built, new_towers, openai_preprocessing, read_config, tokens
from .resize import shortest_side
from .weights import as_open_clip, digest, fill, read_weights

Fit = Callable[[Tensor, int], Tensor]
"""How pictures ``(B, 3, H, W)`` in [0, 1] come to a square of a size: see `resize`."""
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")


@final
class Clip:
    """Two frozen towers in float32, and how pictures are brought to their size."""

    def __init__(self, towers: Towers, fit: Fit = shortest_side) -> None:
        self.architecture, self.preprocessing, self.fit = towers.architecture, towers.preprocessing, fit
        self.model = towers.clip.eval().requires_grad_(False)
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, path: Path, published: str, fit: Fit = shortest_side) -> "Clip":
        """Return the CLIP of a weights file in open_clip's or Hugging Face's layout.

        Its architecture is open_clip's ``published`` and its normalisation OpenAI's, unless ``open_clip_config.json``
        lies beside the file and says otherwise.
        """
        state = as_open_clip(read_weights(path))  # first: the real towers take many seconds to build
        config = path.parent / CONFIG
        if config.is_file():
            architecture, preprocessing = read_config(config)
        else:
            architecture = open_clip.get_model_config(published)
            preprocessing = openai_preprocessing(architecture)
        clip = cls(Towers(built(architecture), architecture, preprocessing), fit)
        fill(clip.model, state, path)
        return clip

    @classmethod
    def of_folder(cls, folder: str, fit: Fit = shortest_side) -> "Clip":
        """Return the CLIP of a folder in open_clip's ``local-dir`` layout, with its own normalisation."""
        return cls(new_towers(f"local-dir:{folder}"), fit)

    @cached_property
    def id(self) -> str:
        """Return a hash of the weights and of how pictures are prepared."""
        return identity("clip", digest(self.model), self.fit.__name__, repr(self.preprocessing))

    def to(self, device: torch.device | str) -> None:
        """Move the weights to ``device``."""
        self.model.to(device)
        self._texts.clear()

    def images(self, images: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of ``images (B, 3, H, W)`` in [0, 1], of length 1."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, enabled=False):
            pixels = self.fit(images.to(device), self.preprocessing.size)
            return normalize(self.model.encode_image(self.preprocessing.normalised(pixels)), dim=-1)  # type: ignore[operator]

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings ``(B, E)`` of ``prompts``, of length 1; each is embedded once, and alone."""
        device = next(self.model.parameters()).device
        for prompt in set(prompts) - self._texts.keys():
            with torch.autocast(device.type, enabled=False):
                embedded = self.model.encode_text(tokens([prompt], self.architecture).to(device))  # type: ignore[operator]
            self._texts[prompt] = normalize(embedded, dim=-1)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def cosine(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return how well pictures fit their prompts ``(B,)``, in [-1, 1]."""
        return (self.images(images) * self.texts(prompts)).sum(-1)
