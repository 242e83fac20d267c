"""A batch: a frozen dataclass whose fields all have the same first axis, selected and split together."""

import dataclasses
from abc import ABC
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound="Batch")


class Batch(ABC):  # noqa: B024 - abstract for want of fields
    """Base of frozen dataclasses of tensors ``(N, …)`` and lists of N items. Abstract: it has no fields of its own."""

    def __len__(self) -> int:
        """Return N."""
        return len(next(iter(self._columns().values())))

    def select(self: B, rows: Sequence[int]) -> B:
        """Return the batch of these rows, in this order."""
        index = torch.tensor(list(rows), dtype=torch.long)
        columns = {
            name: column[index.to(column.device)] if isinstance(column, Tensor) else [column[i] for i in rows]
            for name, column in self._columns().items()
        }
        return dataclasses.replace(self, **columns)  # type: ignore[type-var]

    def split(self: B, size: int) -> Iterator[B]:
        """Yield consecutive batches of at most ``size`` rows; none is padded or dropped."""
        for start in range(0, len(self), size):
            yield self.select(range(start, min(start + size, len(self))))

    def _columns(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
