"""A batch in parts: rows that cannot run side by side run apart, and their results are put together again."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .prompts_cache import Apart

T = TypeVar("T")
Parts = list[tuple[list[int], T]]
"""Results of parts of a batch, each with its rows."""


def in_parts(rows: list[int], work: Callable[[list[int]], T]) -> Parts[T]:
    """Return ``work(rows)``, or that of parts of ``rows`` where their prompts may not be encoded side by side."""
    try:
        return [(rows, work(rows))]
    except Apart as apart:
        groups = [[rows[i] for i in group] for group in apart.groups]
    return [part for group in groups for part in in_parts(group, work)]


def whole(parts: Parts[Tensor]) -> Tensor:
    """Return the batch of ``parts``, in the order of its rows, with gradient to them."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([row for rows, _ in parts for row in rows]).argsort()
    joined = torch.cat([values for _, values in parts])
    return joined[order.to(joined.device)]


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two answers of a network are one, up to what another batch changes in its arithmetic."""
    tolerance = 1e-4 if one.dtype == torch.float32 else 2e-2
    return bool((one - other).abs().mean() <= tolerance * other.abs().mean())
