"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

REWARD = "reward"
"""The name of the reward that was trained on; every other name in `Content.scores` is a held-out judge."""


@final
@dataclass(frozen=True)
class Compared:
    """One prompt and seed, drawn by both generators: pictures ``(3, H, W)`` in [0, 1], finite."""

    prompt: str
    seed: int
    base: Tensor
    tuned: Tensor
    utility_base: float
    """The deciding judge's score of the base's picture; NaN where the judge failed."""
    utility_tuned: float


@final
@dataclass(frozen=True)
class Content:
    """Everything a report shows. A number that is missing, None or NaN is shown as a dash."""

    title: str
    """Such as ``runs/demo``."""
    summary: dict[str, Any]
    """What `summary.json` holds: ``win_rate``, ``win_rate_ci``, ``<judge>_base``, ``<judge>_tuned``, ``seconds`` …"""
    compared: Sequence[Compared]
    """The pairs the verdict rests on."""
    metrics: Sequence[dict[str, float]]
    """One row per step of training."""
    evaluations: Sequence[dict[str, float]]
    """One row per evaluated step: ``step``, ``reward``, ``diversity``, ``distance``, and each judge by its name."""
    scores: dict[str, tuple[Sequence[float], Sequence[float]]]
    """``reward`` or a judge → its scores of the base's and the tuned pictures, in the order of ``compared``."""
    judge: str
    """The name of the judge that decides."""
    reward_card: dict[str, Any] | None
    run: dict[str, Any]
    """`run.json` of the stage that tuned."""
    compare_command: str | None = None
    """The command by which a person compares base and tuned, if there is one."""
