"""The protocol of every reward: pictures and prompts in, a score each or a failure out, never a made-up number."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .errors import RewardFailed


@final
@dataclass(frozen=True)
class Scores:
    """``mean (B,)``, higher is better; where ``valid (B,)`` is False the reward failed and ``mean`` says nothing."""

    mean: Tensor
    valid: Tensor

    @classmethod
    def of(cls, mean: Tensor) -> "Scores":
        """Return scores in which a NaN or an infinity is a failure."""
        return cls(mean.float(), torch.isfinite(mean))


class Reward(ABC):
    """Scores pictures. The order and the company of a picture in its batch must not change its score."""

    differentiable: bool = False
    """Whether a gradient flows from the scores to the pictures."""

    @abstractmethod
    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores of ``images (B, 3, H, W)`` in [0, 1], drawn for ``prompts`` (one each)."""

    def to(self, device: torch.device | str) -> "Reward":
        """Return the reward with its weights, if any, on ``device``."""
        del device
        return self


@final
class FunctionReward(Reward):
    """Any function ``(images, prompts) -> (B,) tensor`` as a reward, for a user's own file."""

    def __init__(self, function: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
        self.function = function

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the function's values; NaN and infinity are failures."""
        try:
            values = torch.as_tensor(self.function(images, prompts))
        except Exception as error:  # somebody else's code: whatever it raises, the reward failed
            raise RewardFailed(f"the reward function raised {type(error).__name__}: {error}") from error
        if values.shape != (len(prompts),):
            raise RewardFailed(
                f"the reward function must return one score a picture: {len(prompts)} asked, shape"
                f" {tuple(values.shape)} returned"
            )
        return Scores.of(values)


@torch.no_grad()
def scores_of(reward: Reward, images: Tensor, prompts: Sequence[str], micro_size: int) -> Scores:
    """Return scores without gradient, on the CPU in float32, of at most ``micro_size`` pictures at a time."""
    starts = range(0, len(prompts), micro_size)
    parts = [reward.score(images=images[i : i + micro_size], prompts=prompts[i : i + micro_size]) for i in starts]
    mean = torch.cat([part.mean.float().cpu() for part in parts])
    return Scores(mean, torch.cat([part.valid.cpu() for part in parts]) & torch.isfinite(mean))
