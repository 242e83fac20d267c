"""A pipeline without weights, from its configs alone: every network on the meta device, tokenizers and times real."""

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from ..errors import BadInput
from .loading import DTYPES, UNREADABLE, bars_only_on_a_terminal, check, component_of, index_of
from .settings import GeneratorConfig
from .tiny import word_tokenizer

PROMPT_TOKENS = 512
"""Longest prompt of an encoder whose config has no limit."""
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that draw nothing."""
CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"


def blueprint(config: GeneratorConfig) -> tuple[Any, list[str]]:
    """Return the pipeline at ``config.path`` without weights, and the tokenizers that were not there.

    A missing one is replaced by one in which every word is a token. No weight is read, and none has to be there.
    """
    bars_only_on_a_terminal()
    check(config)
    kind, index = index_of(config.path)
    parts: dict[str, Any] = {}
    missing: list[str] = []
    for name, value in index.items():
        if not isinstance(value, list | tuple) or name.startswith("_") or len(value) != 2:
            continue
        library, class_name = value
        parts[name] = None if class_name is None or name in OPTIONAL else _part(config, index, name, library, missing)
    needed = inspect.signature(kind).parameters.items()
    parts = {**{name: None for name, value in needed if name in OPTIONAL and value.default is value.empty}, **parts}
    settings = {name: index[name] for name, _ in needed if name in index and name not in parts}
    try:
        pipe = kind(**parts, **settings)
    except UNREADABLE as error:
        raise BadInput(f"{config.path}: cannot be put together without weights ({_line(error)})") from None
    return pipe, missing


def _part(config: GeneratorConfig, index: dict[str, Any], name: str, library: str, missing: list[str]) -> Any:
    if library == "diffusers":
        known, settings = component_of(config.path, index, name)
        if not issubclass(known, nn.Module):
            return known.from_config(settings)
        with torch.device("meta"):
            return _cast(known.from_config(settings), DTYPES[config.dtype])
    known = getattr(transformers, str(index[name][1]), None)
    if known is None:
        raise BadInput(f"{config.path}: its {name} is no class of transformers ({index[name][1]})")
    if isinstance(known, type) and issubclass(known, nn.Module):
        return _network(config, name, known)
    folder = Path(config.path)
    if (folder / name).is_dir() or not folder.is_dir():  # transformers makes an empty tokenizer of no files
        with suppress(*UNREADABLE):
            return known.from_pretrained(config.path, subfolder=name)
    missing.append(name)
    return _every_word_a_token(config, index, name)


def _network(config: GeneratorConfig, name: str, known: Any) -> nn.Module:
    try:
        settings = known.config_class.from_pretrained(config.path, subfolder=name)
    except UNREADABLE as error:
        raise BadInput(f"{config.path}: the config of its {name} cannot be read ({_line(error)})") from None
    with torch.device("meta"):
        network: nn.Module = known(settings)
    return _cast(network, DTYPES[config.dtype])


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return ``network`` in ``dtype``, but for what its class keeps in float32, as a loaded one is."""
    kept = getattr(network, "_keep_in_fp32_modules", None) or []
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and not set(kept) & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return network


def _every_word_a_token(config: GeneratorConfig, index: dict[str, Any], name: str) -> Any:
    """Return a stand-in for tokenizer ``name``, as long as its encoder reads."""
    encoder = name.replace("tokenizer", "text_encoder")
    length = PROMPT_TOKENS
    if index.get(encoder, [None])[0] == "transformers":
        known: Any = getattr(transformers, index[encoder][1])
        settings = known.config_class.from_pretrained(config.path, subfolder=encoder)
        length = min(int(getattr(settings, "max_position_embeddings", PROMPT_TOKENS)), PROMPT_TOKENS)
    words = word_tokenizer([], length, 1)
    words.chat_template = CHAT
    return words


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
