"""Prompt encodings, made once a prompt: the condition of a picture is its prompt string."""

import inspect
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor


@final
class PromptCache:
    """Stands in for ``pipe.encode_prompt``: encodes each prompt alone, once, and joins the answers to the asked batch.

    Tensors whose first axis is the batch are concatenated, per-prompt lists joined, and the rest (FLUX's ``text_ids``)
    is shared. Where encodings of single prompts have different shapes, the batch is encoded as the pipeline would.
    """

    def __init__(self, encode: Callable[..., Any]) -> None:
        self.encode = encode
        self.signature = inspect.signature(encode)
        self.known: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the pipeline's ``encode_prompt`` returns for the same arguments."""
        arguments = self.signature.bind(*args, **kwargs).arguments
        prompts = arguments.get("prompt")
        if not isinstance(prompts, list) or any(isinstance(value, Tensor) for value in arguments.values()):
            return self.encode(*args, **kwargs)
        answers = [self._single(arguments, i, len(prompts)) for i in range(len(prompts))]
        joined = _join(answers)
        return self.encode(*args, **kwargs) if joined is None else joined

    def _single(self, arguments: dict[str, Any], i: int, size: int) -> Any:
        mine = {
            name: value[i : i + 1] if isinstance(value, list) and len(value) == size else value
            for name, value in arguments.items()
        }
        key = repr(sorted(mine.items()))
        if key not in self.known:
            with torch.no_grad():
                self.known[key] = self.encode(**mine)
        return self.known[key]


def _join(answers: list[Any]) -> Any:
    """Return the answers to single prompts as the answer to them all, or None where their shapes differ."""
    first = answers[0]
    if isinstance(first, Tensor):
        if first.ndim < 2 or len(first) != 1:
            return first
        same = all(answer.shape == first.shape for answer in answers)
        return torch.cat(answers) if same else None
    if isinstance(first, list):
        return [item for answer in answers for item in answer]
    if isinstance(first, tuple):
        parts = [_join(list(part)) if part[0] is not None else None for part in zip(*answers, strict=True)]
        failed = any(part is None and original is not None for part, original in zip(parts, first, strict=True))
        return None if failed else tuple(parts)
    return first
