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
        for prompt, rewards, valid in zip(prompts, rewards_PK, valid_PK, strict=True):
            buffer = self.scores.setdefault(prompt, deque(maxlen=self.config.buffer))
            buffer.extend(rewards[valid].tolist())
        rows = []
        for prompt, rewards in zip(prompts, rewards_PK, strict=True):
            buffer = self.scores[prompt]
            enough = len(buffer) >= self.config.min_count
            values = torch.tensor(list(buffer), dtype=rewards_PK.dtype) if enough else rewards_PK[valid_PK]
            spread = bool(len(values) and values.max() > values.min())
            rows.append((rewards - values.mean()) / values.std(correction=0) if spread else torch.zeros_like(rewards))
        return torch.stack(rows).where(valid_PK, torch.zeros_like(rewards_PK))

    @property
    def state(self) -> dict[str, list[float]]:
        """Return everything remembered, as plain values."""
        return {prompt: list(buffer) for prompt, buffer in self.scores.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Remember what `state` returned."""
        self.scores = {prompt: deque(scores, maxlen=self.config.buffer) for prompt, scores in state.items()}
