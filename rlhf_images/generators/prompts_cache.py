"""Prompt encodings, made once a prompt: the condition of a picture is its prompt string."""

import inspect
import json
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, final

import torch
from torch import Tensor

from . import encodings
from .encodings import Padding
from .prompt_folder import PromptFolder

MEMORY = 2**30
"""Bytes of encodings that are kept in memory when a folder has them all."""


@final
class Apart(Exception):
    """Prompts whose encodings may not be joined in one batch: ``groups`` of rows that may."""

    def __init__(self, groups: list[list[int]]) -> None:
        super().__init__(f"{len(groups)} lengths of prompts")
        self.groups = groups


@final
class PromptCache:
    """Stands in for ``pipe.encode_prompt``: encodes each prompt alone, once, and joins the answers to the asked batch.

    So a picture's condition does not depend on the prompts beside it. Where encodings of different lengths may not be
    joined, the call is left by `Apart`. Encodings are kept in host memory, and in ``folder`` if there is one.
    """

    def __init__(
        self,
        pipe: Any,
        folder: PromptFolder | None,
        encoders: Callable[[], AbstractContextManager[None]],
        blind: Callable[[list[str]], bool],
    ) -> None:
        """Cache what ``pipe`` encodes.

        In ``with encoders()`` its text encoders are ready to run. ``blind(prompts)`` tells whether its denoiser, given
        two prompts of different lengths, answers as if it had each alone, and so does not see the padding.
        """
        self.pipe, self.encode, self.folder = pipe, pipe.encode_prompt, folder
        self.encoders, self.blind = encoders, blind
        self.signature = inspect.signature(self.encode)
        self.known: OrderedDict[str, Any] = OrderedDict()
        self.paddings: dict[str, Padding | None] = {}
        self.lengths: dict[Any, str] = {}
        """A prompt of each shape of encoding that was seen."""
        self._bytes = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the pipeline's ``encode_prompt`` returns for the same arguments, or raise `Apart`."""
        arguments = self.signature.bind(*args, **kwargs).arguments
        prompts = arguments.get("prompt")
        if not isinstance(prompts, list) or any(isinstance(value, Tensor) for value in arguments.values()):
            with self.encoders():
                return self.encode(*args, **kwargs)
        texts = list(zip(*(value for name, value in arguments.items() if _is_per_prompt(name, value)), strict=True))
        first = {text: row for row, text in reversed(list(enumerate(texts)))}
        unique = {text: self._single(_of_rows(arguments, [row])) for text, row in first.items()}
        shapes = {text: encodings.shape(answer) for text, answer in unique.items()}
        for text, row in first.items():
            self.lengths.setdefault(shapes[text], prompts[row])
        groups: dict[Any, list[int]] = {}
        for row, text in enumerate(texts):
            groups.setdefault(shapes[text], []).append(row)
        device = arguments.get("device") or self.pipe._execution_device
        joined = self._joined(arguments, [unique[text] for text in texts], list(groups.values()))
        return encodings.moved(joined, device)

    def _joined(self, arguments: dict[str, Any], answers: list[Any], groups: list[list[int]]) -> Any:
        """Return the encoding of the batch of ``answers``, of which those of one group have one shape."""
        if len(groups) == 1:
            return encodings.join(answers)
        settings = _key({name: value for name, value in arguments.items() if not _is_per_prompt(name, value)})
        if settings not in self.paddings:
            rows = sorted(range(len(answers)), key=lambda row: encodings.size(answers[row]))
            self._learn_padding(settings, _of_rows(arguments, [rows[0], rows[-1]]))
        padding = self.paddings[settings]
        if padding is None:
            raise Apart(groups)
        return encodings.join(answers, padding)

    def _learn_padding(self, settings: str, pair: dict[str, Any]) -> None:
        """Let the pipeline encode two prompts of different lengths together, look at its answer, and try it out."""
        one, other = (self._single(_of_rows(pair, [row])) for row in range(2))
        self.paddings[settings] = encodings.learn_padding(one, other, self._encoded(pair))
        if self.paddings[settings] is not None and not self.blind(list(pair["prompt"])):
            self.paddings[settings] = None

    def _single(self, arguments: dict[str, Any]) -> Any:
        key = _key(arguments)
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key]

        def made() -> Any:
            return self._encoded(arguments)

        answer = made() if self.folder is None else self.folder.entry(key, made)
        self.known[key] = answer
        self._bytes += encodings.size(answer)
        while self.folder is not None and self._bytes > MEMORY and len(self.known) > 1:
            self._bytes -= encodings.size(self.known.popitem(last=False)[1])
        return answer

    def _encoded(self, arguments: dict[str, Any]) -> Any:
        with self.encoders(), torch.no_grad():
            return encodings.moved(self.encode(**arguments), "cpu")


def _is_per_prompt(name: str, value: Any) -> bool:
    return "prompt" in name and isinstance(value, list)


def _of_rows(arguments: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Return the arguments that encode only the prompts in ``rows``."""
    return {
        name: [value[row] for row in rows] if _is_per_prompt(name, value) else value
        for name, value in arguments.items()
    }


def _key(arguments: dict[str, Any]) -> str:
    """Return all that decides an encoding but the encoders: the device is not among it."""
    return json.dumps({k: v for k, v in arguments.items() if k != "device"}, sort_keys=True, default=repr)
