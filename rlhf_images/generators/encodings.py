"""Prompt encodings as values: what a pipeline's ``encode_prompt`` returns for one prompt, joined, and as bytes.

An *encoding* is a tensor ``(1, …)``, None, a list with one item a prompt, or a tuple of these, as the pipeline has it.
Tensors whose first axis is the batch are concatenated, lists are joined, the rest (FLUX's ``text_ids``) is shared.
Encodings of different lengths are padded on axis 1 as the pipeline itself was seen to do it: see `learn_padding`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from safetensors.torch import load, save
from torch import Tensor


@final
@dataclass(frozen=True)
class Padding:
    """How a pipeline pads: on which side of axis 1, and at which positions masks ``(B, L)`` of which type tell it."""

    side: Literal["right", "left"]
    masks: dict[int, torch.dtype]


def shape(encoding: Any) -> Any:
    """Return the shapes in ``encoding``. Encodings with equal ones can be joined as they are."""
    if isinstance(encoding, Tensor):
        return tuple(encoding.shape)
    if isinstance(encoding, tuple):
        return tuple(shape(part) for part in encoding)
    return type(encoding).__name__


def size(encoding: Any) -> int:
    """Return the number of bytes in ``encoding``."""
    if isinstance(encoding, Tensor):
        return encoding.numel() * encoding.element_size()
    return sum(size(part) for part in encoding) if isinstance(encoding, tuple | list) else 0


def moved(encoding: Any, device: torch.device | str) -> Any:
    """Return ``encoding`` on ``device``."""
    if isinstance(encoding, Tensor):
        return encoding.to(device)
    if isinstance(encoding, tuple | list):
        return type(encoding)(moved(part, device) for part in encoding)
    return encoding


def join(encodings: Sequence[Any], padding: Padding | None = None) -> Any:
    """Return the encoding of a batch of prompts, of theirs. Without ``padding`` they have one `shape`."""
    first = encodings[0]
    if isinstance(first, tuple):
        columns = list(zip(*encodings, strict=True))
        if padding is not None:
            lengths = [_length(encoding) for encoding in encodings]
            columns = [_padded(column, k, lengths, padding) for k, column in enumerate(columns)]
        return tuple(join(column) for column in columns)
    if isinstance(first, list):
        return [item for encoding in encodings for item in encoding]
    if isinstance(first, Tensor) and _is_batch(first):
        return torch.cat(list(encodings))
    return first


def learn_padding(one: Any, other: Any, batch: Any) -> Padding | None:
    """Return how the pipeline padded the encodings ``one`` and ``other`` in its own ``batch`` of the two prompts.

    None where they may not be joined: where their prompts are encoded otherwise beside a longer one, and where no mask
    tells the padding, so that the denoiser sees it (CogView4).
    """
    if not all(isinstance(value, tuple) and len(value) == len(batch) for value in (one, other, batch)):
        return None
    masks = {k: value.dtype for k, value in enumerate(batch) if _is_mask(value)}
    sides: tuple[Literal["right", "left"], ...] = ("right", "left") if masks else ()
    return next((p for p in (Padding(side, masks) for side in sides) if _explains(p, (one, other), batch)), None)


def to_bytes(encoding: Any) -> bytes:
    """Return ``encoding`` as a safetensors file that carries a hash of its own contents."""
    tensors: list[Tensor] = []
    layout = json.dumps(_layout(encoding, tensors))
    return save(
        {str(i): tensor.detach().cpu().contiguous() for i, tensor in enumerate(tensors)},
        {"layout": layout, "digest": digest([layout, *tensors])},
    )


def from_bytes(data: bytes) -> Any:
    """Return the encoding of `to_bytes`. Raises `ValueError` where ``data`` is anything else."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        named = load(data)
        tensors = [named[str(i)] for i in range(len(named))]
        if digest([header["layout"], *tensors]) != header["digest"]:
            raise ValueError("its contents are not those of its hash")
        return _restored(json.loads(header["layout"]), tensors)
    except Exception as error:  # safetensors has an error class of its own, and damage can look like anything
        raise ValueError(f"no prompt encoding ({error})") from None


def fingerprint(encoding: Any) -> str:
    """Return a hash of all that is in ``encoding``."""
    tensors: list[Tensor] = []
    return digest([json.dumps(_layout(encoding, tensors)), *tensors])


def digest(parts: Sequence[str | Tensor]) -> str:
    """Return the SHA-256 of texts and of tensors' types, shapes and bytes."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            found.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(f"{len(part)} {part}".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _is_batch(tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and len(tensor) == 1


def _is_mask(value: Any) -> bool:
    return (
        isinstance(value, Tensor) and value.ndim == 2 and len(value) == 2 and bool(((value == 0) | (value == 1)).all())
    )


def _length(encoding: tuple[Any, ...]) -> int:
    """Return the number of tokens: the second axis of the first tensor that has a third."""
    return next((part.shape[1] for part in encoding if isinstance(part, Tensor) and part.ndim >= 3), 0)


def _padded(column: tuple[Any, ...], k: int, lengths: list[int], padding: Padding) -> tuple[Any, ...]:
    """Return the parts at position ``k`` of several encodings with one length, zeros in the padding."""
    if k in padding.masks:
        ones = [torch.ones(1, length, dtype=padding.masks[k]) for length in lengths]
        column = tuple(one if part is None else part for part, one in zip(column, ones, strict=True))
    if not all(isinstance(part, Tensor) and _is_batch(part) for part in column):
        return column
    longest = max(part.shape[1] for part in column)
    if any(part.ndim != column[0].ndim for part in column):
        return column
    padded = []
    for part in column:
        zeros = part.new_zeros(1, longest - part.shape[1], *part.shape[2:])
        padded.append(torch.cat([part, zeros] if padding.side == "right" else [zeros, part], 1))
    return tuple(padded)


def _explains(padding: Padding, singles: tuple[Any, Any], batch: Any) -> bool:
    """Return whether ``batch`` is the two encodings under ``padding``; what a mask hides does not count."""
    try:
        mine = join(singles, padding)
    except RuntimeError:  # lengths in which this padding has no say
        return False
    for k, (ours, theirs) in enumerate(zip(mine, batch, strict=True)):
        if not isinstance(ours, Tensor):
            if type(ours) is not type(theirs):
                return False
        elif not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
            return False
        elif k in padding.masks:
            if not torch.equal(ours, theirs.to(ours)):
                return False
        elif not all(_close(single[k], theirs[row : row + 1], padding) for row, single in enumerate(singles)):
            return False
    return True


def _close(single: Tensor, row: Tensor, padding: Padding) -> bool:
    """Return whether ``single`` is what is not padding in ``row``, up to what a batch changes in the arithmetic."""
    if not _is_batch(single):
        return True
    length = single.shape[1]
    own = row[:, :length] if padding.side == "right" else row[:, row.shape[1] - length :]
    tolerance = 1e-3 if single.dtype == torch.float32 else 2**-4
    return bool((own - single).abs().max() <= tolerance * single.abs().max())


def _layout(encoding: Any, tensors: list[Tensor]) -> Any:
    """Return the structure of ``encoding`` as JSON, and put its tensors into ``tensors``."""
    if isinstance(encoding, Tensor):
        tensors.append(encoding)
        return len(tensors) - 1
    if isinstance(encoding, tuple | list):
        return {type(encoding).__name__: [_layout(part, tensors) for part in encoding]}
    if encoding is None:
        return None
    raise TypeError(f"a prompt encoding with a {type(encoding).__name__} in it")


def _restored(layout: Any, tensors: list[Tensor]) -> Any:
    if isinstance(layout, dict):
        ((kind, parts),) = layout.items()
        return {"tuple": tuple, "list": list}[kind](_restored(part, tensors) for part in parts)
    return None if layout is None else tensors[layout]
