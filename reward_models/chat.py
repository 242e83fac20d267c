"""Who is asked about pictures: a vision-language model on this machine (`LocalChat`) or served (`served_chat`).

An answer is not a text but a chance: how likely the model's next word is each of the answers that were allowed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from rlhf_images.data import pil
from rlhf_images.errors import BadInput
from rlhf_images.progress import say
from rlhf_images.reward import identity

from .weights import digest

TOGETHER = 8
"""Questions in one forward pass, where they are equally long."""


@final
@dataclass(frozen=True)
class Question:
    """Pictures ``(3, H, W)`` in [0, 1], in their order, and then a text."""

    images: tuple[Tensor, ...]
    text: str


class Chat(ABC):
    """Somebody who looks at pictures and answers with one of a few words."""

    remote: bool = False
    """Whether the pictures leave this process, and any number of questions may be asked at once."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Return who it is."""

    @abstractmethod
    def chances(self, questions: Sequence[Question], answers: Sequence[str]) -> Tensor:
        """Return the chance of each of the ``answers`` ``(Q, A)``, which sum to 1; NaN where there was no answer.

        It depends on neither the other questions nor their order.
        """

    def to(self, device: torch.device | str) -> None:
        """Move the weights, if any are here."""
        del device


@final
class LocalChat(Chat):
    """Any model that transformers calls image-text-to-text, with its own chat template."""

    def __init__(self, path: str, dtype: str = "float32") -> None:
        from transformers import AutoModelForImageTextToText

        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        no = "no vision-language model that transformers knows"
        self.processor, model = pretrained(AutoModelForImageTextToText, path, no, dtype=kind)
        self.model: Any = model.eval().requires_grad_(False)

    @cached_property
    def id(self) -> str:
        """Return a hash of the weights, the template, and how pictures are prepared."""
        template = str(getattr(self.processor, "chat_template", ""))
        return identity("local", digest(self.model), template, self.processor.image_processor.to_json_string())

    def chances(self, questions: Sequence[Question], answers: Sequence[str]) -> Tensor:
        """Return the chances ``(Q, A)``. Questions of one length share a pass, so that none is padded."""
        forms = self._tokens(answers)
        prepared = [self._prepared(question) for question in questions]
        found = torch.full((len(questions), len(answers)), torch.nan)
        for numbers, joined in alike(prepared):
            found[numbers] = self._next(joined, forms)
        return found

    def to(self, device: torch.device | str) -> None:
        """Move the weights."""
        self.model.to(device)

    @torch.no_grad()
    def _next(self, inputs: dict[str, Tensor], forms: list[list[int]]) -> Tensor:
        device = self.model.device
        joined = {name: value.to(device) for name, value in inputs.items()}
        with torch.autocast(device.type, enabled=False):
            logits = self.model(**joined, use_cache=False).logits[:, -1].float()
        each = torch.stack([logits[:, ids].logsumexp(1) for ids in forms], 1)
        return each.softmax(1).cpu()

    def _prepared(self, question: Question) -> dict[str, Tensor] | None:
        """Return what the model takes, or None for pictures that it cannot be shown."""
        return shown_to(self.processor, question, self.model.dtype, add_generation_prompt=True)

    def _tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the tokens with which each answer may begin: as given, in other cases, after a space."""
        found = []
        for answer in answers:
            words = {
                space + form
                for form in (answer, answer.lower(), answer.upper(), answer.capitalize())
                for space in ("", " ")
            }
            split = [self.processor.tokenizer.encode(word, add_special_tokens=False) for word in sorted(words)]
            whole = [ids[0] for ids in split if len(ids) == 1]
            found.append(sorted(set(whole or [self.processor.tokenizer.encode(answer, add_special_tokens=False)[0]])))
        if len({token for ids in found for token in ids}) < sum(map(len, found)):
            raise BadInput(f"answers {', '.join(answers)}: begin with the same token for this model; choose others")
        return found


def pretrained(kind: Any, path: str, no: str, drawn: Sequence[str] = (), **options: Any) -> tuple[Any, Any]:
    """Return the processor at ``path``, a folder or a name, and the model by transformers' class ``kind``.

    Raises `BadInput`, saying ``no``, for what cannot be loaded, and where a weight that is not one of ``drawn`` is
    missing: transformers would draw it at random. Python that lies in the folder is neither run nor asked about, as
    transformers does, at the terminal, where nothing is said.
    """
    from transformers import AutoProcessor

    safe: dict[str, Any] = {"trust_remote_code": False}
    _sought(path, no)
    try:
        processor = AutoProcessor.from_pretrained(path, **safe)
        model, told = kind.from_pretrained(path, use_safetensors=True, output_loading_info=True, **safe, **options)
    except Exception as error:  # of a damaged folder transformers raises a dozen kinds
        raise BadInput(f"{path}: {no} ({type(error).__name__}: {_line(error)})") from None
    missing = sorted(set(told["missing_keys"]) - set(drawn))
    if missing:
        raise BadInput(f"{path}: {no} ({len(missing)} of its weights are missing, '{missing[0]}' among them)")
    return processor, model


def _sought(path: str, no: str) -> None:
    """Raise `BadInput` where ``path`` is neither a folder nor kept by the hub's client nor to be had from the hub.

    Asked once: transformers asks for each of its files, half a minute long, where the hub does not answer.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        if not Path(path).is_dir() and not isinstance(try_to_load_from_cache(path, "config.json"), str):
            say(f"{path}: no such folder; the hub is asked")
            hf_hub_download(path, "config.json")
    except Exception as error:  # the hub's client raises kinds of several libraries
        raise BadInput(
            f"{path}: {no}: there is no such folder, and the hub has nothing by that name or cannot be asked"
            f" ({type(error).__name__}); download it, and name the folder that it lies in"
        ) from None


def shown_to(
    processor: Any, question: Question, dtype: torch.dtype, *, add_generation_prompt: bool
) -> dict[str, Tensor] | None:
    """Return what a model takes of ``question`` by its processor, or None for what it cannot be shown.

    Such as a text with a word that means more to the model than text: of a picture's place, or of who speaks.
    """
    words = [str(token) for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
    if any(word in question.text for word in words):
        return None
    content = [{"type": "image", "image": pil(image)} for image in question.images]
    message = {"role": "user", "content": [*content, {"type": "text", "text": question.text}]}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    try:
        inputs = processor.apply_chat_template([message], add_generation_prompt=add_generation_prompt, **options)
    except ValueError:  # such as one that is hundreds of times wider than high
        return None
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def alike(prepared: Sequence[dict[str, Tensor] | None]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield the numbers of inputs of one length, `TOGETHER` at most, and those inputs joined: nothing is padded."""
    groups: dict[Any, list[int]] = {}
    for number, inputs in enumerate(prepared):
        if inputs is not None:
            groups.setdefault(tuple((name, value.shape) for name, value in inputs.items()), []).append(number)
    for numbers in groups.values():
        for start in range(0, len(numbers), TOGETHER):
            part = numbers[start : start + TOGETHER]
            known = [inputs for i in part if (inputs := prepared[i]) is not None]
            yield part, {name: torch.cat([one[name] for one in known]) for name in known[0]}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
