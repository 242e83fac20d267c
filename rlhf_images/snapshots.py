"""Named copies of the trainable tensors: ``reference`` (the start), ``behaviour`` (samples), ``average`` (kept)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn


@final
class Snapshots:
    """Copies of ``parameters`` taken by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.copies: dict[str, dict[str, Tensor]] = {}

    def take(self, name: str) -> None:
        """Make snapshot ``name`` equal to the parameters now."""
        self.copies[name] = {key: value.detach().clone() for key, value in self.parameters.items()}

    @torch.no_grad()
    def move(self, name: str, keep: float) -> None:
        """Set snapshot ``name`` to keep·snapshot + (1 − keep)·parameters."""
        for key, copy in self.copies[name].items():
            copy.lerp_(self.parameters[key].detach().to(copy), 1 - keep)

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Run with the weights of snapshot ``name``, without gradient: no graph may outlive a swap of its weights."""
        current = {key: parameter.data for key, parameter in self.parameters.items()}
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.data = self.copies[name][key]
            try:
                yield
            finally:
                for key, parameter in self.parameters.items():
                    parameter.data = current[key]
