"""What convolutions on a CPU hold while they run, beside what they are given.

oneDNN computes in blocks of channels, as wide as the processor's vectors: input, weight and output are copied into that
order and back. A single small picture is unfolded instead, a column for each place of the kernel; and all are where
torch was built without oneDNN.
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

BLOCK = 16
"""Channels of a block, which are as many float32 as a vector of AVX-512 has; where there are 8, less is padded."""
SMALL = 20480
"""Numbers of a single picture up to which torch unfolds it."""


def held_at_most(func: Any, args: Sequence[Any], result: Any) -> int:
    """Return the bytes that operation ``func`` holds at its peak, what it returns included; 0 if no convolution."""
    if func is torch.ops.aten.convolution.default:
        return _forward(args[0], args[1], result, args[3])
    if func is torch.ops.aten.convolution_backward.default:
        return _backward(args[0], args[1], args[2], args[4], *result[:2])
    return 0


def _forward(x: Tensor, weight: Tensor, y: Tensor, stride: Sequence[int]) -> int:
    if _plain(x, weight, stride):
        return y.nbytes
    if _unfolded(x):
        return y.nbytes + _columns(weight, y)
    return _blocked(y) + max(_copied(x) + _blocked(weight), y.nbytes)


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], dx: Tensor | None, dw: Tensor | None
) -> int:
    made = sum(gradient.nbytes for gradient in (dx, dw) if gradient is not None)
    if _plain(x, weight, stride):
        return made
    if _unfolded(x):
        return made + _columns(weight, dy)
    to_input = _blocked(dy) + _blocked(weight) + _blocked(x) if dx is not None else 0
    to_weight = made + _blocked(dy) + _copied(x) + _blocked(weight) if dw is not None else 0
    return max(to_input, to_weight, made)


def _plain(x: Tensor, weight: Tensor, stride: Sequence[int]) -> bool:
    """Return whether it is one product of matrices, for which one thread copies nothing."""
    return prod(weight.shape[2:]) == 1 and set(stride) == {1} and len(x) < 16 and torch.get_num_threads() == 1


def _blocked(tensor: Tensor) -> int:
    """Return the bytes of ``tensor`` (N or out, channels, …) with its channels filled up to whole blocks."""
    return tensor.nbytes // tensor.shape[1] * ceil(tensor.shape[1] / BLOCK) * BLOCK


def _copied(x: Tensor) -> int:
    """Return the bytes of the copy of an input: none where its channels do not fill a block."""
    return _blocked(x) if x.shape[1] >= BLOCK else 0


def _unfolded(x: Tensor) -> bool:
    return (len(x) == 1 and x.numel() <= SMALL) or not torch.backends.mkldnn.is_available()


def _columns(weight: Tensor, y: Tensor) -> int:
    """Return the bytes of unfolded pictures: a kernel's inputs for each number of a channel of ``y``."""
    return int(prod((len(y), *weight.shape[1:], *y.shape[2:]))) * y.element_size()
