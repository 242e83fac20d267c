"""The two towers: any open_clip architecture, a small one from the config or a big one with weights from a folder."""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import open_clip  # type: ignore[import-untyped,unused-ignore]
import torch
from open_clip.factory import load_checkpoint  # type: ignore[import-untyped,unused-ignore]
from torch import nn

from rlhf_images.errors import BadInput

from .preprocess import Preprocessing

Architecture = dict[str, Any]
LOCAL, CONFIG = "local-dir:", "open_clip_config.json"


@final
@dataclass(frozen=True)
class Towers:
    """An image and a text tower with what must never be parted from them."""

    clip: nn.Module
    architecture: Architecture
    """open_clip's own description, from which the towers can be built without their origin."""
    preprocessing: Preprocessing


def new_towers(wanted: Architecture | str) -> Towers:
    """Return the towers for ``wanted``.

    It is an architecture (random weights, drawn from torch's generator), the name of one of open_clip's (likewise), or
    ``local-dir:`` and a folder with ``open_clip_config.json`` and safetensors weights.
    """
    if isinstance(wanted, str) and wanted.startswith(LOCAL):
        return _from_folder(Path(wanted.removeprefix(LOCAL)))
    if isinstance(wanted, str):
        named = open_clip.get_model_config(wanted)
        if named is None:
            raise BadInput(f"architecture '{wanted}': open_clip has none of that name; see open_clip.list_models()")
        return Towers(built(named), named, openai_preprocessing(named))
    return Towers(built(wanted), wanted, Preprocessing(_image_size(wanted)))


def built(architecture: Architecture) -> nn.Module:
    """Return open_clip's model of ``architecture`` in float32; its random weights leave torch's generator as it was."""
    options = deepcopy(architecture)
    kind = open_clip.CustomTextCLIP if options.pop("custom_text", False) else open_clip.CLIP
    try:
        _image_size(options)
        if {"hf_model_name", "hf_tokenizer_name"} & options["text_cfg"].keys():
            raise BadInput("architecture: its text tower or vocabulary is not open_clip's own; choose another")
        if "timm_model_name" in options["vision_cfg"]:
            options["vision_cfg"]["timm_model_pretrained"] = False
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = kind(**options)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"architecture: open_clip cannot build it ({type(error).__name__}: {reason})") from None
    return model


def tokens(prompts: list[str], architecture: Architecture) -> torch.Tensor:
    """Return the tokens of ``prompts`` ``(B, context_length)``; what is longer is cut off, as in every CLIP."""
    found: torch.Tensor = open_clip.tokenize(prompts, architecture["text_cfg"].get("context_length", 77))
    return found


def openai_preprocessing(architecture: Architecture) -> Preprocessing:
    """Return how OpenAI's CLIPs, and most others, see pictures."""
    return Preprocessing(_image_size(architecture), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def read_config(path: Path) -> tuple[Architecture, Preprocessing]:
    """Return what an ``open_clip_config.json`` says of the weights beside it; if not how they see, OpenAI's way."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        architecture, told = described["model_cfg"], described.get("preprocess_cfg", {})
        usual = openai_preprocessing(architecture)
        mean, std = (tuple(map(float, told.get(name, own))) for name, own in (("mean", usual.mean), ("std", usual.std)))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("a mean and a std have three numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise BadInput(f"{path}: no readable {CONFIG} ({reason}); it says what the weights beside it are") from None
    return architecture, Preprocessing(usual.size, mean, std)


def _from_folder(folder: Path) -> Towers:
    architecture, preprocessing = read_config(folder / CONFIG)
    names = ("open_clip_model.safetensors", "model.safetensors")
    weights = [folder / name for name in names if (folder / name).is_file()] or sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadInput(f"architecture '{LOCAL}{folder}': no .safetensors in it; pickled weights are not read")
    clip = built(architecture)
    try:
        load_checkpoint(clip, str(weights[0]), strict=True)
    except Exception as error:  # safetensors and torch raise several kinds; each means that the weights do not fit
        raise BadInput(f"{weights[0]}: not the weights of its {CONFIG} ({_first_line(error)})") from None
    return Towers(clip, architecture, preprocessing)


def _image_size(architecture: Architecture) -> int:
    size = architecture["vision_cfg"].get("image_size", 224)
    if not isinstance(size, int):
        raise BadInput(f"architecture: vision_cfg.image_size must be one number of pixels, got {size!r}")
    return size


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
