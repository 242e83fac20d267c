"""Random numbers as a function of (seed, step, index, purpose) and of nothing else.

No generator has a history that outlives a call. So a resumed run, another number of processes and another micro-batch
draw exactly the same numbers for the same picture.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Randomness:
    """The random numbers of one step of one run."""

    seed: int
    step: int = 0

    def generator(self, purpose: str, index: int = 0) -> torch.Generator:
        """Return a fresh CPU generator for ``purpose`` of the sample with *global* ``index``."""
        key = f"{self.seed}/{self.step}/{index}/{purpose}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    def generators(self, purpose: str, indices: Sequence[int]) -> list[torch.Generator]:
        """Return one fresh generator for each global index."""
        return [self.generator(purpose, index) for index in indices]

    def normal(self, purpose: str, indices: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers ``(len(indices), *shape)`` in float32, on the CPU, so devices agree."""
        return _rows([torch.randn(tuple(shape), generator=self.generator(purpose, i)) for i in indices], shape)

    def uniform(self, purpose: str, indices: Sequence[int], shape: Sequence[int] = ()) -> Tensor:
        """Return numbers ``(len(indices), *shape)`` uniform in [0, 1)."""
        return _rows([torch.rand(tuple(shape), generator=self.generator(purpose, i)) for i in indices], shape)

    def permutation(self, purpose: str, size: int, index: int = 0) -> list[int]:
        """Return a permutation of ``range(size)``."""
        return torch.randperm(size, generator=self.generator(purpose, index)).tolist()


def _rows(numbers: list[Tensor], shape: Sequence[int]) -> Tensor:
    """Return ``(N, *shape)``, also of no rows: a process may have none of a step's pictures that are learnt from."""
    return torch.stack(numbers) if numbers else torch.empty(0, *shape)
