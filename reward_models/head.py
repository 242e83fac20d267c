"""A linear head on frozen features: seconds of a processor for a few hundred votes, and it says how sure it is.

    score = w · bend((features − mean) · gain)        std = √(xᵀ Σ x)

``bend`` is R tanh(x / R) for R = 3 standard deviations of the training pictures: no vote was cast further out. Within a
block, gain is 1 / (standard deviation · √columns), so that each block is worth the same a priori; a column that never
changed counts nothing. w and Σ are those of `davidson` and `posterior`, divided by the temperature of
`cross_validation`. A difference of scores is in log-odds, and 0 is the average training picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rlhf_images import config as configs
from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, identity

from . import saved
from .extractors import Blocks, Extractor, FeaturesConfig, extractors
from .posterior import Posterior

RANGE = 3.0
"""Standard deviations at which a feature levels off."""
BYTES = 850_000
"""Of the weights on disk, at most: as many directions of the posterior are kept as fit."""
FORMAT = "rlhf-images head 1"
WEIGHTS = "reward.safetensors"


@final
@dataclass(frozen=True)
class Scale:
    """How features become comparable: ``mean (D,)`` and ``gain (D,)`` of the training pictures."""

    mean: Tensor
    gain: Tensor

    @classmethod
    def of(cls, blocks: Blocks) -> "Scale":
        """Return the scale under which ``blocks`` have mean 0, and each a total variance of 1."""
        gains = []
        for block in blocks.values():
            std = block.double().std(0, correction=0)
            alive = std > 1e-6 * (1 + block.double().abs().amax(0))
            columns = max(int(alive.sum()), 1)
            gains.append(torch.where(alive, 1 / (std.clamp(min=1e-30) * columns**0.5), 0.0).float())
        return cls(torch.cat([block.double().mean(0).float() for block in blocks.values()]), torch.cat(gains))

    def __call__(self, features: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return ``features (B, D)`` in these units, bent; ``sizes`` are the blocks' columns."""
        x = (features - self.mean) * self.gain
        reach = torch.cat([torch.full((size,), RANGE * size**-0.5) for size in sizes]).to(x)
        return reach * torch.tanh(x / reach)


@final
@dataclass(frozen=True)
class Learnt:
    """What the votes taught, all in float32."""

    scale: Scale
    weights: Tensor
    """w ``(D,)``."""
    width: float
    """Davidson's tie width ν: P(tie) between equal pictures is ν / (2 + ν)."""
    posterior: Posterior


@final
class Head(Reward):
    """Extractors, and what was learnt on their features. Made by `train_head`, or by `load`."""

    can = Capabilities(differentiable=True, uncertainty=True, posterior=True, trainable=True)
    log_odds = True

    def __init__(self, looked_at: FeaturesConfig, made: dict[str, Extractor], learnt: Learnt, sizes: dict[str, int]):
        self.looked_at, self.extractors, self.learnt = looked_at, made, learnt
        self.sizes = sizes
        """Columns of each block, in order."""

    @property
    def id(self) -> str:
        """Return a hash of the extractors and of the weights."""
        told = [extractor.id for extractor in self.extractors.values()]
        tensors = (self.learnt.weights, self.learnt.scale.mean, self.learnt.scale.gain)
        return identity("head", *told, *(tensor.cpu().numpy().tobytes() for tensor in tensors))

    def evidence(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the bent features ``(B, D)`` of ``images (B, 3, H, W)``, with gradient to the pixels."""
        pixels = images.to(self.learnt.weights.device).float()
        found = [made.blocks(pixels, prompts) for made in self.extractors.values()]
        joined = torch.cat([block for blocks in found for block in blocks.values()], 1)
        return self.learnt.scale(joined, list(self.sizes.values()))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)`` and how unsure they are."""
        with torch.autocast(self.learnt.weights.device.type, enabled=False):
            x = self.evidence(images, prompts)
            return Scores.of(x @ self.learnt.weights, self.learnt.posterior.std(x))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor | None:
        """Return the bent features ``(B, D)`` that do not depend on the prompt, if there are any."""
        prompted = {block for made in self.extractors.values() for block in made.prompted}
        kept = [block not in prompted for block, size in self.sizes.items() for _ in range(size)]
        with torch.autocast(self.learnt.weights.device.type, enabled=False):
            return self.evidence(images, [""] * len(images))[:, kept] if any(kept) else None

    def doubts(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return Σ^½ x ``(B, D)``."""
        with torch.no_grad():
            return self.learnt.posterior.factors(self.evidence(images, prompts))

    def tastes(self) -> dict[str, float]:
        """Return the log-odds of one standard deviation more, for every statistic that differed among the pictures."""
        found: dict[str, float] = {}
        if "statistics" in self.extractors:  # they come first
            names = self.extractors["statistics"].names
            alive = (self.learnt.scale.gain[: len(names)] > 0).tolist()
            unit = max(sum(alive), 1) ** -0.5
            weights = (self.learnt.weights[: len(names)] * unit).tolist()
            found = {name: weight for name, weight, used in zip(names, weights, alive, strict=True) if used}
        return found

    def to(self, device: torch.device | str) -> "Head":
        """Return the head with everything on ``device``."""
        old = self.learnt
        scale = Scale(old.scale.mean.to(device), old.scale.gain.to(device))
        posterior = old.posterior.to(device, torch.float32)
        self.learnt = Learnt(scale, old.weights.to(device), old.width, posterior)
        for made in self.extractors.values():
            made.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write the weights as safetensors, then `reward.json`: see `saved`."""
        learnt = self.learnt
        tensors = {
            "mean": learnt.scale.mean,
            "gain": learnt.scale.gain,
            "weights": learnt.weights,
            "basis": learnt.posterior.basis,
            "variance": learnt.posterior.variance,
        }
        weights = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        told = {
            "format": FORMAT,
            "weights_sha256": saved.sha256(weights),
            "features": configs.plain(self.looked_at),
            "extractors": {name: made.id for name, made in self.extractors.items()},
            "blocks": self.sizes,
            "range": RANGE,
            "tie_width": learnt.width,
            "rest": learnt.posterior.rest,
        }
        saved.write(folder, {WEIGHTS: weights}, told, self.reference)

    @classmethod
    def load(cls, folder: str | Path) -> "Head":
        """Return the head of ``folder``. Raises `BadInput` if it is damaged, or if its extractors are not the same."""
        folder = Path(folder)
        told = saved.described(folder, FORMAT)
        with saved.damage_told(folder):
            tensors, sizes = _tensors(folder, told)
            if not float(told["rest"]) > 0:
                raise ValueError("its posterior is none")
            posterior = Posterior(tensors["basis"], tensors["variance"], float(told["rest"]))
            scale = Scale(tensors["mean"], tensors["gain"])
            learnt = Learnt(scale, tensors["weights"], float(told["tie_width"]), posterior)
            reference = torch.tensor(told["reference"], dtype=torch.float32)
            features = configs.build(FeaturesConfig, told["features"], "features")
            ids = dict(told["extractors"])
        made = extractors(features)
        changed = [name for name, extractor in made.items() if extractor.id != ids.get(name)]
        if changed:
            raise BadInput(
                f"{folder}: the '{changed[0]}' that its features come from is not the one it learnt on; put that back,"
                " or train it again with 'train-reward'"
            )
        head = cls(features, made, learnt, sizes)
        head.reference = reference
        return head


def directions(columns: int) -> int:
    """Return how many directions of a posterior over ``columns`` features are kept on disk."""
    return min(columns, max(1, BYTES // (4 * columns) - 4))


def _tensors(folder: Path, told: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the weights by name and the columns of each block. Raises whatever is wrong with them."""
    if told["range"] != RANGE:
        raise ValueError(f"its features level off at {told['range']} standard deviations, here at {RANGE}")
    tensors = load_file(saved.checked(folder / WEIGHTS, told["weights_sha256"]))
    sizes = {str(name): int(size) for name, size in told["blocks"].items()}
    columns, kept = sum(sizes.values()), len(tensors["variance"])
    wanted = dict.fromkeys(("mean", "gain", "weights"), (columns,))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {**wanted, "basis": (kept, columns), "variance": (kept,)}:
        raise ValueError("the weights do not fit its blocks")
    return tensors, sizes
