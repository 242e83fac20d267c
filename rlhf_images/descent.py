"""Descent: what becomes of gradients. Summed over the processes, they are one step of AdamW."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from .checkpoint import load_optimizer_tensors, optimizer_tensors
from .processes import Processes
from .sharding import like, whole


class Descent(ABC):
    """The way from the losses of an update to new weights; every process takes the same steps."""

    @abstractmethod
    def begin(self, passes: int) -> None:
        """Forget all gradients; ``passes`` losses of this process follow."""

    @abstractmethod
    def add(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``."""

    @abstractmethod
    def total(self, value: float, scale: float) -> float:
        """Sum the gradients over the processes, and divide them by ``scale``; return the sum of ``value``."""

    @abstractmethod
    def clipped(self, most: float) -> float:
        """Scale the gradient down to the length ``most``, and return what its length was: not finite if it is not."""

    @abstractmethod
    def step(self) -> None:
        """Move the weights."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return AdamW's state as tensors ``<parameter>/<slot>``; every process has to ask."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned, on any number of processes, beside weights that were put back."""


@final
class Replicated(Descent):
    """Each process has the whole state, or that of its part of sharded weights."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, processes: Processes
    ) -> None:
        self.parameters, self.optimizer, self.processes = parameters, optimizer, processes

    def begin(self, passes: int) -> None:
        """Forget all gradients."""
        del passes
        self.optimizer.zero_grad(set_to_none=True)

    def add(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``."""
        self.processes.backward(loss)

    def total(self, value: float, scale: float) -> float:
        """Sum gradients and ``value`` in one collective."""
        total = self.processes.sum_gradients(self.parameters.values(), value)
        for parameter in self.parameters.values():
            if parameter.grad is not None and scale != 1:
                parameter.grad.div_(scale)
        return total

    def clipped(self, most: float) -> float:
        """Scale the gradient down."""
        return float(whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), most)))

    def step(self) -> None:
        """Move the weights."""
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return AdamW's state, as it lies here."""
        return optimizer_tensors(self.optimizer, list(self.parameters))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put it back, where weights are in parts this process's."""
        moments = {
            key: like(value, self.parameters[key.rpartition("/")[0]]) if value.ndim else value
            for key, value in tensors.items()
        }
        load_optimizer_tensors(self.optimizer, list(self.parameters), moments)
