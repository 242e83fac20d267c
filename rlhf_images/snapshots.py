"""Named copies of the trainable tensors: ``reference`` (the start), ``behaviour`` (samples), ``average`` (kept)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .sharding import local


@final
class Snapshots:
    """Copies of ``parameters`` taken by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.copies: dict[str, dict[str, Tensor]] = {}
        """By name. While one is in use, it holds the parameters' own weights."""
        self._in_use: list[str] = []

    @property
    def in_use(self) -> str | None:
        """Return the name of the snapshot whose weights the parameters have now, None for their own."""
        return self._in_use[-1] if self._in_use else None

    def take(self, name: str) -> None:
        """Make snapshot ``name`` equal to the parameters now."""
        self.copies[name] = {key: value.detach().clone() for key, value in self.parameters.items()}

    @torch.no_grad()
    def move(self, name: str, keep: float) -> None:
        """Set snapshot ``name`` to keep·snapshot + (1 − keep)·parameters."""
        for key, copy in self.copies[name].items():
            local(copy).lerp_(local(self.parameters[key].detach()), 1 - keep)

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Run with the weights of snapshot ``name``, without gradient: no graph may outlive a swap of its weights."""
        with torch.no_grad():
            self._exchange(name)
            self._in_use.append(name)
            try:
                yield
            finally:
                self._in_use.pop()
                self._exchange(name)

    @contextmanager
    def use_only(self, name: str | None) -> Iterator[None]:
        """Run with the weights of snapshot ``name``, None for the parameters' own, whatever is in use."""
        before, self._in_use = self._in_use, []
        if before[-1:] == [name] or (name is None and not before):
            yield
        else:
            for other in reversed(before):
                self._exchange(other)
            if name is not None:
                self._exchange(name)
            yield
            if name is not None:
                self._exchange(name)
            for other in before:
                self._exchange(other)
        self._in_use = before

    @torch.no_grad()
    def _exchange(self, name: str) -> None:
        """Exchange the weights of the parameters and of a snapshot.

        Of sharded ones the contents: what other processes gather is the memory, whatever a parameter calls its data.
        """
        copies = self.copies[name]
        for key, parameter in self.parameters.items():
            if isinstance(parameter, DTensor):
                mine, theirs = local(parameter.detach()), local(copies[key])
                held = mine.clone()
                mine.copy_(theirs)
                theirs.copy_(held)
            else:
                copies[key], parameter.data = parameter.data, copies[key]
