"""What a head on frozen features looks at. An extractor turns pictures and prompts into blocks of numbers.

Every block is worth the same to a head that has seen no votes: one of a thousand numbers does not outweigh one of ten.
The text of a prompt alone is not among them: it is the same for both pictures of a pair, so that no vote can teach it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from rlhf_images.config import Count
from rlhf_images.reward import identity

from .clip import Clip
from .image_statistics import image_statistics
from .preprocess import Preprocessing
from .weights import digest

if TYPE_CHECKING:
    from rlhf_images.generators.features import PictureFeatures

Blocks = dict[str, Tensor]
"""Features ``(B, D)`` by the name of their block."""
GRID = 4
"""Places a side, over which latents are averaged."""
STATISTICS_VERSION = "2"
"""Of the definitions in `image_statistics`; another one is another extractor."""


class Extractor(ABC):
    """Frozen: its weights are never trained, so what it says of a picture can be kept."""

    prompted: frozenset[str] = frozenset()
    """The blocks that depend on the prompt too."""
    names: tuple[str, ...] = ()
    """What each column means, where that can be said."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Return a name and a hash of all that decides the features."""

    @abstractmethod
    def blocks(self, images: Tensor, prompts: Sequence[str]) -> Blocks:
        """Return the features of ``images (B, 3, H, W)`` in [0, 1], in float32, with gradient to the pixels."""

    def to(self, device: torch.device | str) -> None:
        """Move the weights, if any."""
        del device


@final
@dataclass(frozen=True)
class ClipFeatures:
    """Features of an open_clip model."""

    path: str
    """A folder in open_clip's layout: open_clip_config.json and open_clip_model.safetensors."""
    parts: tuple[Literal["image", "product", "cosine"], ...] = ("image", "product", "cosine")
    """The embedding of the picture; its product with that of the prompt, number by number; how well they fit."""

    def __post_init__(self) -> None:
        """Refuse a lesson from nothing, and from the same thing twice."""
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts {list(self.parts)}: one or more of image, product, cosine, each once")


@final
@dataclass(frozen=True)
class GeneratorFeatures:
    """Features of a generator's own networks: nothing to download where there is a generator anyway."""

    path: str
    """A diffusers pipeline: a folder, or a name on the hub. Its latents must be those of an AutoencoderKL, unpacked."""
    size: Count | None = None
    """Pixels of the square that is looked at; what the pipeline draws by itself where not given."""
    parts: tuple[Literal["latents", "denoiser"], ...] = ("latents", "denoiser")
    """The autoencoder's latents, roughly where they lie; the middle of the denoiser, over all places, by prompt."""
    time: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """How noisy a picture the denoiser sees: 0 is clean, 1 is noise."""
    call: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    """Other keywords of the pipeline's call, such as ``max_sequence_length``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""

    def __post_init__(self) -> None:
        """Refuse a lesson from nothing, and from the same thing twice."""
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts {list(self.parts)}: one or both of latents, denoiser")


@final
@dataclass(frozen=True)
class FeaturesConfig:
    """Which features; several together are joined."""

    statistics: bool = True
    """Light, colours, detail and composition, measured without a network: nothing to download."""
    open_clip: ClipFeatures | None = None
    """Embeddings of a CLIP."""
    generator: GeneratorFeatures | None = None
    """What a generator's own networks see."""

    def __post_init__(self) -> None:
        """Refuse a head on nothing."""
        if not self.statistics and self.open_clip is None and self.generator is None:
            raise ValueError("no features; set 'statistics: true', or name an 'open_clip' model or a 'generator'")


@final
class StatisticsExtractor(Extractor):
    """The `image_statistics`, as one block."""

    def __init__(self) -> None:
        self.names = tuple(image_statistics(torch.zeros(1, 3, 2, 2)))

    @property
    def id(self) -> str:
        """Return a hash of what is measured."""
        return identity("statistics", STATISTICS_VERSION, *self.names)

    def blocks(self, images: Tensor, prompts: Sequence[str]) -> Blocks:
        """Return every statistic."""
        del prompts
        return {"statistics": torch.stack(list(image_statistics(images).values()), 1)}


@final
class ClipExtractor(Extractor):
    """Two frozen towers; the shorter side of a picture at their size, cropped in the middle."""

    def __init__(self, config: ClipFeatures) -> None:
        self.clip, self.parts = Clip.of_folder(config.path), config.parts
        self.prompted = frozenset(config.parts) - {"image"}

    @property
    def id(self) -> str:
        """Return a hash of the weights, the preprocessing and the parts."""
        return identity("open_clip", self.clip.id, *self.parts)

    def blocks(self, images: Tensor, prompts: Sequence[str]) -> Blocks:
        """Return the parts that were asked for."""
        image = self.clip.images(images)
        found = {"image": image}
        if self.prompted:
            found["product"] = image * self.clip.texts(prompts)
            found["cosine"] = found["product"].sum(1, keepdim=True)
        return {part: found[part] for part in self.parts}

    def to(self, device: torch.device | str) -> None:
        """Move the towers."""
        self.clip.to(device)


@final
class GeneratorExtractor(Extractor):
    """A frozen generator; a centred square of a picture at the size that it draws."""

    def __init__(self, config: GeneratorFeatures) -> None:
        self.config, self.eyes = config, _eyes(config, "cpu")
        self.preprocessing = Preprocessing(self.eyes.size)
        self.prompted = frozenset(config.parts) - {"latents"}

    @cached_property
    def id(self) -> str:
        """Return a hash of the networks, the parts, and how they are asked."""
        asked = (*self.config.parts, repr(self.config.time), repr(sorted(self.config.call.items())), self.config.dtype)
        return identity("generator", *map(digest, self.eyes.modules()), *asked, repr(self.preprocessing))

    def blocks(self, images: Tensor, prompts: Sequence[str]) -> Blocks:
        """Return the parts that were asked for."""
        latents = self.eyes.latents(self.preprocessing.fitted(images))
        found: Blocks = {}
        if "latents" in self.config.parts:
            spread = (latents.flatten(2).var(2, correction=0) + 1e-8).sqrt()
            found["latents"] = torch.cat([adaptive_avg_pool2d(latents, GRID).flatten(1), spread], 1)
        if "denoiser" in self.config.parts:
            found["denoiser"] = self.eyes.hidden(prompts, latents)
        return {part: found[part] for part in self.config.parts}

    def to(self, device: torch.device | str) -> None:
        """Load the pipeline anew on ``device``: where each of its parts lies is the pipeline's own business."""
        if torch.device(device).type != self.eyes.generator.device.type:
            self.eyes = _eyes(self.config, device)


def _eyes(config: GeneratorFeatures, device: torch.device | str) -> "PictureFeatures":
    from rlhf_images.generators import GeneratorConfig
    from rlhf_images.generators.features import PictureFeatures

    size, call = config.size, dict[str, Any](config.call)
    settings = GeneratorConfig(config.path, height=size, width=size, dtype=config.dtype, call=call)
    return PictureFeatures(settings, config.time, device)


def extractors(config: FeaturesConfig) -> dict[str, Extractor]:
    """Return the extractors of ``config`` by name."""
    found: dict[str, Extractor] = {}
    if config.statistics:
        found["statistics"] = StatisticsExtractor()
    if config.open_clip is not None:
        found["open_clip"] = ClipExtractor(config.open_clip)
    if config.generator is not None:
        found["generator"] = GeneratorExtractor(config.generator)
    return found
