"""What convolutions on a CPU hold while they run, beside what they are given.

oneDNN computes in blocks of channels, as wide as the processor's vectors: input, weight and output are copied into that
order and back. A single small picture is unfolded instead, a column for each place of the kernel.
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
        return _backward(args[0], args[1], args[2], *result[:2])
    return 0


def _forward(x: Tensor, weight: Tensor, y: Tensor, stride: Sequence[int]) -> int:
    pointwise = prod(weight.shape[2:]) == 1 and set(stride) == {1}
    if pointwise and len(x) < 16 and torch.get_num_threads() == 1:
        return y.nbytes
    if _unfolded(x):
        return y.nbytes + _columns(weight, y)
    return _blocked(y) + max(_copied(x) + _blocked(weight), y.nbytes)


def _backward(dy: Tensor, x: Tensor, weight: Tensor, dx: Tensor | None, dw: Tensor | None) -> int:
    made = sum(gradient.nbytes for gradient in (dx, dw) if gradient is not None)
    if _unfolded(x):
        return made + _columns(weight, dy)
    to_input = _blocked(dy) + _blocked(weight) + _blocked(x) if dx is not None else 0
    to_weight = made + _blocked(dy) + _copied(x) + _blocked(weight) if dw is not None else 0
    return max(to_input, to_weight, made)


def _blocked(tensor: Tensor) -> int:
    """Return the bytes of ``tensor`` (N or out, channels, …) with its channels filled up to whole blocks."""
    return tensor.nbytes // tensor.shape[1] * ceil(tensor.shape[1] / BLOCK) * BLOCK


def _copied(x: Tensor) -> int:
    """Return the bytes of the copy of an input: none where its channels do not fill a block."""
    return _blocked(x) if x.shape[1] >= BLOCK else 0


def _unfolded(x: Tensor) -> bool:
    return len(x) == 1 and x.numel() <= SMALL


def _columns(weight: Tensor, y: Tensor) -> int:
    """Return the bytes of an unfolded picture: a kernel's inputs for each number of a channel of ``y``."""
    return int(prod((*weight.shape[1:], *y.shape[2:]))) * y.element_size()
