"""Scores of a prompt over steps: DDPO's way to compare a picture when it is the only one of its prompt in a step."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .config import Count


@final
@dataclass(frozen=True)
class StatisticsConfig:
    """What is remembered of each prompt; the defaults are DDPO's."""

    buffer: Count = 32
    """Scores kept a prompt, the newest."""
    min_count: Count = 16
    """With fewer, a picture is compared with all of its step instead."""


@final
class PromptStatistics:
    """The last scores of each prompt. `state` goes into a checkpoint."""

    def __init__(self, config: StatisticsConfig) -> None:
        self.config = config
        self.scores: dict[str, deque[float]] = {}

    def advantages(self, prompts: Sequence[str], rewards_PK: Tensor, valid_PK: Tensor) -> Tensor:
        """Remember the valid scores of a step's P ``prompts``, and return (r − mean) / std of each prompt's buffer.

        The std is the population's. Where the buffer, or with too few scores the step, has no spread, it is exactly 0.
        """
        for prompt, scores, valid in zip(prompts, rewards_PK.tolist(), valid_PK.tolist(), strict=True):
            buffer = self.scores.setdefault(prompt, deque(maxlen=self.config.buffer))
            buffer.extend(score for score, known in zip(scores, valid, strict=True) if known)
        if not bool(valid_PK.any()):
            return torch.zeros_like(rewards_PK)
        buffers = [self.scores[prompt] for prompt in prompts]
        longest = max(map(len, buffers))
        values = rewards_PK.new_tensor([[*buffer, *[torch.nan] * (longest - len(buffer))] for buffer in buffers])
        mean, std = _moments(values)
        all_mean, all_std = _moments(rewards_PK[valid_PK][None])
        enough = torch.tensor([len(buffer) >= self.config.min_count for buffer in buffers])
        mean, std = mean.where(enough, all_mean)[:, None], std.where(enough, all_std)[:, None]
        told = valid_PK & (std > 0)
        return ((rewards_PK - mean) / std).where(told, torch.zeros_like(rewards_PK))

    @property
    def state(self) -> dict[str, list[float]]:
        """Return everything remembered, as plain values."""
        return {prompt: list(buffer) for prompt, buffer in self.scores.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Remember what `state` returned."""
        self.scores = {prompt: deque(scores, maxlen=self.config.buffer) for prompt, scores in state.items()}


def _moments(values_PN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the population's std ``(P,)`` of each row's numbers but for NaN; equal ones have std 0."""
    known = ~values_PN.isnan()
    low, high = values_PN.nan_to_num(torch.inf).amin(1), values_PN.nan_to_num(-torch.inf).amax(1)
    mean = values_PN.nanmean(1)
    variance = (values_PN - mean[:, None]).square().nansum(1) / known.sum(1)
    return mean, variance.sqrt().where(high > low, torch.zeros_like(mean))
