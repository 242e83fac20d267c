"""Lockstep: processes that share one network's weights run its every forward and backward pass together.

A sharded network gathers a block's weights, a collective, whenever it runs. But processes have unequal work: their
slices differ by a picture, prompts of several lengths split a batch, one may have nothing to learn from in an update.
So each says what it does next, before it does it, and the largest of all answers is done by all:

    FORWARD (without gradient) > LEARNING (a forward pass with gradient) > BACKWARD > WAITING (for a collective of ours)

A process that said something else does a *shadow* of it, and says it again: for a forward pass the network runs on
inputs that it once had, with its part of the same snapshot's weights; for a backward pass the graphs of its shadows run
back, multiplied by 0. So all go through equal sequences of passes, whatever they compute, and meet where all of them
wait. (torch's ``Join`` does the same for loops of whole steps.) What is said is one number, on the host, so that no
device has to stop for it.

A pass that was begun has to end: the others wait in it for blocks. Where one ends halfway, and somebody catches what it
raised, this process stops, so that the others see that it is gone.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .errors import Stop
from .snapshots import Snapshots


@final
class Next(IntEnum):
    """What a process does next."""

    WAITING = 0
    BACKWARD = 1
    LEARNING = 2
    FORWARD = 3


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a forward pass, and its keywords."""


@final
class Lockstep:
    """The pace of one process. Every process of the launch has one, from the same moment on."""

    def __init__(self, network: nn.Module, snapshots: Snapshots, inputs: Inputs, largest: Callable[[int], int]) -> None:
        """Let ``network`` run together with those of the other processes from now on.

        ``snapshots`` are those of its weights, ``inputs`` what it can be run on where it has not yet been; ``largest``
        returns the largest of the numbers that all processes give it, by a channel of its own.
        """
        self.network, self.snapshots, self._inputs, self._largest = network, snapshots, inputs, largest
        self._weights: list[str | None] = [None, *snapshots.copies]
        self._shadows: list[Tensor] = []
        self._shadowing = self._running = False
        network.register_forward_pre_hook(self._before_forward, prepend=True, with_kwargs=True)
        network.register_forward_hook(self._after_forward)

    def wait(self) -> None:
        """Go through whatever the others still do, until all wait. No graph of a loss lives on after that."""
        self._together(Next.WAITING)
        self._shadows.clear()

    def backward(self, loss: Tensor) -> None:
        """Run ``loss`` back, with all others."""
        self._together(Next.BACKWARD)
        self._run_back([loss])

    def _before_forward(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Inputs | None:
        """Stand before each forward pass of the network."""
        learning = torch.is_grad_enabled()
        if not self._shadowing:
            self._together(Next.LEARNING if learning else Next.FORWARD)
            self._inputs = _mapped((args, keywords), Tensor.detach)
        self._running = True
        return _mapped((args, keywords), _differentiable) if learning else None

    def _after_forward(self, *_: Any) -> None:
        self._running = False

    def _together(self, mine: Next) -> None:
        """Do what the others do first; return when what is done next is ``mine``."""
        if self._running:
            raise Stop(
                "the sharded denoiser ended halfway through a pass, in which the other processes wait for it; report"
                " the pipeline, and launch it with configs/accelerate/ddp.yaml"
            )
        weights = self._weights.index(self.snapshots.in_use)
        said = mine * len(self._weights) + (weights if mine == Next.FORWARD else 0)
        while (largest := self._largest(said)) != said:
            theirs, weights = divmod(largest, len(self._weights))
            if theirs == Next.BACKWARD:
                self._run_back([])
            else:
                with self.snapshots.use_only(self._weights[weights]):
                    self._run(learning=theirs == Next.LEARNING)

    def _run(self, learning: bool) -> None:
        """Run a shadow forward."""
        args, keywords = self._inputs
        self._shadowing = True
        with torch.set_grad_enabled(learning):
            made = self.network(*args, **keywords)
        self._shadowing = False
        if learning:
            self._shadows += [part for part in _tensors(made) if part.requires_grad]

    def _run_back(self, losses: list[Tensor]) -> None:
        graphs = [*losses, *(0 * shadow.sum() for shadow in self._shadows)]
        self._shadows.clear()
        torch.stack([graph.float() for graph in graphs]).sum().backward()


def _differentiable(tensor: Tensor) -> Tensor:
    """Return ``tensor`` with gradient to it: so each pass has the same graph, whether its input comes from another."""
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor
    return tensor.detach().requires_grad_().clone()  # no leaf, which a network could not change in place


def _mapped(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    mapped: Inputs = tree_map(lambda value: change(value) if isinstance(value, Tensor) else value, inputs)
    return mapped


def _tensors(made: Any) -> list[Tensor]:
    """Return the tensors of what a denoiser returned: a tuple, or diffusers' output with one ``sample``."""
    found: list[Tensor] = []
    tree_map(lambda value: found.append(value) if isinstance(value, Tensor) else None, made)
    return found
