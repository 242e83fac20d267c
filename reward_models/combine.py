"""Several rewards as one: a weighted sum of normalised scores, or the mean of an ensemble that shows its disagreement.

Written in a config as a mapping, ``reward: {runs/demo/reward: 1.0, sharpness: 0.2}``, or as a list.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, asked, identity


@final
class Weighted(Reward):
    """``Σ wᵢ · (scoreᵢ - mean_i) / std_i``, with the mean and the std of each reward's own reference pictures.

    Normalised first, because in a raw sum the reward with the largest unit wins whatever the weights. Where a reward
    knows no reference pictures, `finetune` measures it on those of the base generator: see `rlhf_images.reference`.
    A picture on which one reward fails has no sum: it failed. A negative weight asks for less.
    """

    def __init__(self, parts: Mapping[str, tuple[Reward, float]]) -> None:
        if not parts:
            raise BadInput("reward: an empty mapping; give it 'name: weight' lines")
        for name, (_, weight) in parts.items():
            if not math.isfinite(weight) or weight == 0:
                raise BadInput(f"reward: '{name}' has weight {weight}; use another number, or leave it out")
        self.parts = {name: part for name, (part, _) in parts.items()}
        self.weights = {name: float(weight) for name, (_, weight) in parts.items()}
        self.can = _common(list(self.parts.values()), uncertainty=all(p.can.uncertainty for p in self.parts.values()))

    @property
    def id(self) -> str:
        """Return a hash of the parts, their weights and what they are normalised by."""
        units = {name: (self.weights[name], part.id, _unit(part)) for name, part in self.parts.items()}
        return identity("weighted", json.dumps(units, sort_keys=True))

    def unmeasured(self) -> dict[str, Reward]:
        """Return the parts that know no reference pictures."""
        inner = {f"{name}/{key}": r for name, part in self.parts.items() for key, r in part.unmeasured().items()}
        return inner | {name: part for name, part in self.parts.items() if not len(part.reference)}

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the sums ``(B,)``; the components are each part's own scores, and what those were made of."""
        means, valids, variances, components = [], [], [], dict[str, Tensor]()
        for name, part in self.parts.items():
            unit, weight = _unit(part), self.weights[name]
            if unit is None:
                raise BadInput(
                    f"reward '{name}': cannot be added to others before it is known how its scores spread; 'finetune'"
                    " measures that on the base generator's pictures, elsewhere set its `reference`"
                )
            scores = _alone(part, images, prompts)
            means.append(weight * (scores.mean - unit[0]) / unit[1])
            valids.append(scores.valid)
            variances += [] if scores.std is None else [(weight * scores.std / unit[1]).square()]
            components |= {name: scores.mean.detach(), **{f"{name}/{key}": v for key, v in scores.components.items()}}
        mean = torch.stack(means).sum(0)
        valid = torch.stack(valids).all(0) & torch.isfinite(mean)
        std = torch.stack(variances).sum(0).sqrt() if self.can.uncertainty else None
        return Scores(mean, valid, std, components)

    def features(self, images: Tensor) -> Tensor | None:
        """Return what the first part that sees any sees."""
        return next((seen for part in self.parts.values() if (seen := part.features(images)) is not None), None)

    def to(self, device: torch.device | str) -> "Weighted":
        """Return the sum with every part on ``device``."""
        self.parts = {name: part.to(device) for name, part in self.parts.items()}
        return self


@final
class Ensemble(Reward):
    """The mean of several rewards in the same unit, such as one model trained from different seeds.

    The variance is that of the mixture: how much the members disagree, and on average how unsure each of them is. It
    assumes that their scores mean the same; rewards of different units belong into a weighted sum.
    """

    def __init__(self, members: Sequence[Reward]) -> None:
        if len(members) < 2:
            raise BadInput(f"reward: an ensemble of {len(members)}; list two or more, or name the one alone")
        self.members = list(members)
        self.can = _common(self.members, uncertainty=True)

    @property
    def id(self) -> str:
        """Return a hash of the members."""
        return identity("ensemble", *(member.id for member in self.members))

    def unmeasured(self) -> dict[str, Reward]:
        """Return what the members need, by their numbers."""
        return {f"{i}/{key}": r for i, member in enumerate(self.members) for key, r in member.unmeasured().items()}

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the mean of the members ``(B,)`` and how far they disagree; it fails where any of them does."""
        scores = [_alone(member, images, prompts) for member in self.members]
        means = torch.stack([part.mean for part in scores])
        within = [part.std.square() for part in scores if part.std is not None]
        variance = means.detach().var(0) + (torch.stack(within).mean(0) if within else 0)
        valid = torch.stack([part.valid for part in scores]).all(0) & torch.isfinite(means).all(0)
        components = {f"member {i}": part.mean.detach() for i, part in enumerate(scores)}
        return Scores(means.mean(0), valid, variance.sqrt(), components)

    def features(self, images: Tensor) -> Tensor | None:
        """Return what the first member that sees any sees."""
        return next((seen for member in self.members if (seen := member.features(images)) is not None), None)

    def to(self, device: torch.device | str) -> "Ensemble":
        """Return the ensemble with every member on ``device``."""
        self.members = [member.to(device) for member in self.members]
        return self


def _alone(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Scores:
    """Return the scores of one of several rewards; what it does to its pictures the others do not see."""
    return asked(reward, images.clone(), list(prompts)).to(images.device)


def _unit(reward: Reward) -> tuple[float, float] | None:
    """Return mean and std of the reference scores, or None where they are not known or do not differ."""
    known = reward.reference.double()
    if len(known) < 2 or not float(known.std()) > 1e-9 * float(known.abs().max()):  # nor where one is not finite
        return None
    return float(known.mean()), float(known.std())


def _common(rewards: Sequence[Reward], *, uncertainty: bool) -> Capabilities:
    """Return what a mixture of ``rewards`` can do: a gradient needs all of them, a group's company any."""
    return Capabilities(
        differentiable=all(reward.can.differentiable for reward in rewards),
        groupwise=any(reward.can.groupwise for reward in rewards),
        remote=any(reward.can.remote for reward in rewards),
        uncertainty=uncertainty,
    )
