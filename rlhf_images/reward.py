"""The protocol of every reward: pictures and prompts in, a score each or a failure out, never a made-up number.

A reward is one class in one file: it declares what it `can` and says `score`. Everything else here has a default.
"""

import hashlib
import inspect
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from .errors import BadInput, RewardFailed, Stop

RewardSpec = str | tuple[str, ...] | dict[str, float]
"""A reward in a config: a name, folder or module:attribute; a list of them, whose mean counts (an ensemble); or a
mapping of them to weights, each normalised before they are summed."""


@final
@dataclass(frozen=True)
class Capabilities:
    """What a reward declares that it can do. Declared, not discovered: a contract test holds each to its word."""

    differentiable: bool = False
    """A gradient flows from ``mean`` to the pictures."""
    groupwise: bool = False
    """A score depends on the other pictures of the group: `score` must be given one whole group, and no more."""
    pairwise: bool = False
    """It has its own way of comparing two pictures, `Reward.prefer`, beside a score for each."""
    uncertainty: bool = False
    """``std`` comes with ``mean``."""
    posterior: bool = False
    """It says which scores it is unsure of together: `Reward.doubts`."""
    trainable: bool = False
    """Its weights are learnt from votes by a stage of this package."""
    remote: bool = False
    """Pictures and prompts leave this process for another one that scores them."""


@final
@dataclass(frozen=True)
class Scores:
    """``mean (B,)``, higher is better; where ``valid (B,)`` is False the reward failed and ``mean`` says nothing."""

    mean: Tensor
    valid: Tensor
    std: Tensor | None = None
    """How sure the reward is of ``mean``: a standard deviation ``(B,)`` in the same unit, or None if it cannot say."""
    components: Mapping[str, Tensor] = field(default_factory=dict)
    """What ``mean`` was made of, by name, ``(B,)`` each; to be looked at, not to be learnt from."""

    @classmethod
    def of(cls, mean: Tensor, std: Tensor | None = None, components: Mapping[str, Tensor] | None = None) -> "Scores":
        """Return scores, in float32, in which a NaN or an infinity of ``mean`` or ``std`` is a failure."""
        mean, std = mean.float(), None if std is None else std.float()
        valid = torch.isfinite(mean) if std is None else torch.isfinite(mean) & torch.isfinite(std)
        return cls(mean, valid, std, {name: part.float() for name, part in (components or {}).items()})

    def to(self, device: torch.device) -> "Scores":
        """Return the scores on ``device``."""
        parts = {name: part.to(device) for name, part in self.components.items()}
        std = None if self.std is None else self.std.to(device)
        return Scores(self.mean.to(device), self.valid.to(device), std, parts)


class Reward(ABC):
    """Scores pictures.

    The order and the company of a picture in its batch must not change its score; those of a groupwise reward depend on
    the whole group, whatever its order.
    """

    can: Capabilities = Capabilities()
    """What this reward can do."""
    at_once: bool = False
    """Whether `scores_of` may give it any number of pictures at once, because they are scored elsewhere."""
    reference: Tensor = torch.zeros(0)
    """The sorted scores ``(N,)`` of its reference pictures, by which a score answers as a percentile and by whose mean
    and spread rewards of different units can be added; empty where none were measured."""
    log_odds: bool = False
    """Whether a difference of two means for one prompt is the log-odds that the first picture is preferred."""

    @abstractmethod
    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores of ``images (B, 3, H, W)`` in [0, 1], drawn for ``prompts`` (one each).

        If the reward is groupwise these are the pictures of one group.
        """

    def prefer(self, *, left: Tensor, right: Tensor, prompts: Sequence[str]) -> Scores:
        """Return P(left is preferred to right) in [0, 1] for pairs of ``(B, 3, H, W)``.

        By the scores: σ(left − right) where they are in `log_odds`, else 1, ½ or 0. A pairwise reward has a way of its
        own. ``valid`` is False where either picture failed.
        """
        scored_left, scored_right = (self.score(images=images, prompts=prompts) for images in (left, right))
        difference = scored_left.mean - scored_right.mean
        chance = torch.sigmoid(difference) if self.log_odds else (difference.sign() + 1) / 2
        return Scores(chance, scored_left.valid & scored_right.valid)

    def percentiles(self, scores: Tensor) -> Tensor:
        """Return the share in [0, 1] of reference pictures that score no more than each of ``scores (B,)``."""
        if not len(self.reference):
            raise ValueError(f"{self.id} has no reference distribution")
        place = torch.searchsorted(self.reference, scores.detach().float().cpu().contiguous(), right=True)
        return place / len(self.reference)

    def preferred(self, scores: Tensor) -> Tensor:
        """Return P(a picture is preferred to one drawn from the reference) of each of ``scores (B,)``, in [0, 1].

        Only where `log_odds`: elsewhere a difference of scores says nothing of how often.
        """
        if not self.log_odds or not len(self.reference):
            raise ValueError(f"{self.id} has no reference distribution in log-odds")
        margins = scores.detach().float().cpu()[:, None] - self.reference[None]
        return torch.sigmoid(margins).mean(1)

    def doubts(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return how unsure the scores are, and together with which: ``(B, K)``, whose products are their covariances.

        What is asked next is chosen by it. Only a reward with a posterior over its weights can tell.
        """
        raise NotImplementedError(f"{self.id} has no posterior")

    def unmeasured(self) -> "dict[str, Reward]":
        """Return the rewards, by name, whose `reference` this one needs before it can score and that have none yet."""
        return {}

    def features(self, images: Tensor) -> Tensor | None:
        """Return what it sees in ``images (B, 3, H, W)``, ``(B, D)``, in whose space pictures are near or far.

        None where it has no such space. It tells how far a tuned generator's pictures have gone from the base's.
        """
        del images
        return None

    @property
    def id(self) -> str:
        """Return who scores: the name of its class and a hash of the file that defines it.

        A reward with weights or settings has its own: see `identity`.
        """
        return identity(type(self).__name__, source_of(type(self)))

    def to(self, device: torch.device | str) -> "Reward":
        """Return the reward with its weights, if any, on ``device``."""
        del device
        return self


@final
class FunctionReward(Reward):
    """Any function ``(images, prompts) -> (B,) tensor`` as a reward, for a user's own file.

    It is given float32, whatever the pictures come in, and computes outside of autocast.
    """

    def __init__(self, function: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
        self.function = function

    @property
    def id(self) -> str:
        """Return the name of the function and a hash of its file."""
        return identity(getattr(self.function, "__name__", "function"), source_of(self.function))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the function's values; NaN and infinity are failures."""
        try:
            with torch.autocast(images.device.type, enabled=False):
                values = torch.as_tensor(self.function(images.float(), list(prompts)))
        except Exception as error:  # somebody else's code: whatever it raises, the reward failed
            raise RewardFailed(f"{self.id}: the function raised {_told(error)}") from error
        if values.shape != (len(prompts),):
            raise RewardFailed(
                f"{self.id}: the function must return one score a picture: {len(prompts)} asked, shape"
                f" {tuple(values.shape)} returned"
            )
        return Scores.of(values)


@torch.no_grad()
def scores_of(
    reward: Reward, images: Tensor, prompts: Sequence[str], micro_size: int, groups: Sequence[int] | None = None
) -> Scores:
    """Return scores without gradient, on the CPU in float32, of at most ``micro_size`` pictures at a time (`at_once`).

    A groupwise reward is given the pictures of one group at a time instead; ``groups`` names the group of each. A
    picture with a number that is not finite has failed, even where the reward did not look at that pixel. The mean of
    what failed is NaN: nobody takes it for a score.
    """
    if not prompts:
        return Scores(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    if reward.can.groupwise:
        if groups is None:
            raise BadInput(f"{reward.id}: scores whole groups of pictures, and there are none here; choose another")
        batches = [[row for row, g in enumerate(groups) if g == group] for group in dict.fromkeys(groups)]
    else:
        rows = list(range(len(prompts)))
        size = len(rows) if reward.at_once else micro_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    parts = [asked(reward, images[batch], [prompts[row] for row in batch]) for batch in batches]
    place = torch.tensor([row for batch in batches for row in batch]).argsort()

    def joined(columns: Sequence[Tensor]) -> Tensor:
        return torch.cat([column.cpu() for column in columns])[place]

    mean = joined([part.mean.float() for part in parts])
    valid = joined([part.valid for part in parts]) & torch.isfinite(mean)
    valid &= torch.isfinite(images).flatten(1).all(1).cpu()
    std = joined([part.std.float() for part in parts if part.std is not None]) if reward.can.uncertainty else None
    if std is not None:
        valid &= torch.isfinite(std) & (std >= 0)
    names = [name for name in parts[0].components if all(name in part.components for part in parts)]
    return Scores(
        mean.where(valid, torch.full_like(mean, torch.nan)),
        valid,
        std,
        {name: joined([part.components[name].float() for part in parts]) for name in names},
    )


def identity(name: str, *parts: bytes | str) -> str:
    """Return ``name`` and a short hash of everything that decides a score: weights, preprocessing, rubric, settings."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return f"{name}-{whole.hexdigest()[:12]}"


def source_of(found: object) -> bytes:
    """Return the file in which a class or function is defined, or nothing where there is none, as in a console."""
    try:
        return Path(inspect.getfile(found)).read_bytes()  # type: ignore[arg-type]
    except (TypeError, OSError):
        return b""


def asked(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Scores:
    """Return what ``reward`` says, if it is one score a picture of what it declares; else, or if it raises, it failed.

    Somebody else's code may have written it: only running out of memory is left to who asked for so many pictures.
    """
    try:
        scores = reward.score(images=images, prompts=prompts)
    except (Stop, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise RewardFailed(f"{reward.id}: raised {_told(error)}") from error
    return _checked(scores, reward, len(prompts))


def _checked(scores: object, reward: Reward, count: int) -> Scores:
    """Return ``scores`` if there is one a picture, and no picture of ours was lost or invented."""
    if not isinstance(scores, Scores):
        raise RewardFailed(f"{reward.id}: gave a {type(scores).__name__}, not Scores")
    for name, column in {"mean": scores.mean, "valid": scores.valid, "std": scores.std, **scores.components}.items():
        if column is not None and not isinstance(column, Tensor):
            raise RewardFailed(f"{reward.id}: '{name}' is a {type(column).__name__}, not a tensor")
        if column is not None and column.shape != (count,):
            raise RewardFailed(f"{reward.id}: '{name}' of {count} pictures has shape {tuple(column.shape)}")
    if scores.valid.dtype != torch.bool:
        raise RewardFailed(f"{reward.id}: 'valid' is of {scores.valid.dtype}, not of torch.bool")
    if (scores.std is not None) != reward.can.uncertainty:
        raise RewardFailed(f"{reward.id}: declares uncertainty={reward.can.uncertainty}, and does otherwise")
    return scores


def _told(error: Exception) -> str:
    """Return an exception in one line, with the place that it comes from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(place.filename).name}, line {place.lineno})"
