"""What is trained: LoRA adapters on the denoiser, or all of its weights; and files that plain diffusers reads."""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, final

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..config import Count
from ..errors import BadInput
from ..math.path import Path
from .loading import UNREADABLE, check, denoiser_of
from .pipeline import Generator
from .settings import GeneratorConfig

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ADAPTERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What `save_trained` calls a file of adapters: diffusers' name, or peft's where the pipeline knows no LoRA."""


@final
@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: W + (alpha/rank)·B·A, with B = 0 at the start, so nothing changes before the first update."""

    rank: Count = 32
    """Inner dimension of the adapters."""
    alpha: Count = 64
    """Scale of the adapters; the usual choice is twice the rank."""
    target_modules: tuple[str, ...] = ATTENTION
    """Name endings of the linear layers that get one; the default is every projection of the attention."""


def check_trainable(config: GeneratorConfig, lora: LoraConfig | None) -> Path:
    """Refuse what `Generator.load` or `make_trainable` could not do; return the generator's noise path.

    On the configs alone: the denoiser is made without memory, and no weight is read.
    """
    path = check(config)
    if lora is None:
        _check_dtype(config)
        return path
    kind, settings = denoiser_of(config.path)
    with torch.device("meta"):
        network = kind.from_config(settings)
    _check_targets(network, lora)
    return path


def make_trainable(generator: Generator, lora: LoraConfig | None, seed: int) -> None:
    """Attach adapters drawn from ``seed`` to the denoiser, or (None) open all of its weights, in float32."""
    denoiser: Any = generator.denoiser
    if lora is None:
        _check_dtype(generator.config)
        denoiser.requires_grad_(True)
    else:
        _check_targets(denoiser, lora)
        targets = list(lora.target_modules)
        config = PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, init_lora_weights="gaussian")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(denoiser, PeftAdapterMixin):
                denoiser.add_adapter(config)
            else:
                inject_adapter_in_model(config, denoiser)
    for parameter in generator.parameters.values():
        parameter.data = parameter.data.float()


def save_trained(
    generator: Generator, lora: LoraConfig | None, folder: File, *, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write what was trained as others read it; ``weights``, whole, where the denoiser has only its part of them.

    Adapters: ``pipe.load_lora_weights(folder)``, or ``PeftModel.from_pretrained(pipe.transformer, folder)`` for the few
    pipelines that know no LoRA (PixArt, Hunyuan-DiT, Lumina, CogView3, PRX). All weights: ``folder/transformer`` (or
    ``unet``) as ``save_pretrained`` writes it.
    """
    denoiser: Any = generator.denoiser
    part = generator.component
    if lora is None:
        network = denoiser if weights is None else _with(denoiser, weights)
        network.save_pretrained(folder / part, safe_serialization=True)
        return
    weights = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(denoiser).items()}
    if knows_lora(generator):
        metadata = {f"{part}_lora_adapter_metadata": denoiser.peft_config["default"].to_dict()}
        generator.pipe.save_lora_weights(folder, **{f"{part}_lora_layers": weights}, **metadata)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {f"base_model.model.{name}": value for name, value in weights.items()}, folder / "adapter_model.safetensors"
        )
        denoiser.peft_config["default"].save_pretrained(folder)


def _with(denoiser: Any, weights: Mapping[str, Tensor]) -> Any:
    """Return a network like ``denoiser``, unsharded, that has ``weights`` without a copy of them."""
    kind: Any = next(kind for kind in type(denoiser).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        network = kind.from_config(denoiser.config)
    network.load_state_dict({**denoiser.state_dict(), **weights}, assign=True)
    return network


def load_trained(generator: Generator, folder: File) -> None:
    """Put weights written by `save_trained`, or a file of adapters, into ``generator``, as a user would.

    ``folder`` may also be the one in which such a run lies. Raises `BadInput` for weights that do not fit.
    """
    found = folder if folder.is_file() or _tuned(generator, folder) else _run_in(generator, folder)
    if found.is_file() and not knows_lora(generator):
        raise BadInput(f"{found}: {type(generator.pipe).__name__} reads no LoRA files; give a folder with its adapters")
    try:
        _put(generator, found)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{found}: cannot be put on {generator.config.path} ({reason})") from None
    generator.denoiser.requires_grad_(False).eval()


def _put(generator: Generator, found: File) -> None:
    """Load what `_tuned` names, or a file of adapters whoever wrote it."""
    if found.is_file():
        generator.pipe.load_lora_weights(found.parent, weight_name=found.name)
    elif (found / "pytorch_lora_weights.safetensors").is_file():
        generator.pipe.load_lora_weights(found, weight_name="pytorch_lora_weights.safetensors")
    elif (found / "adapter_model.safetensors").is_file():
        PeftModel.from_pretrained(generator.denoiser, found)  # which adds them to the network in its place
    else:
        kind: Any = type(generator.denoiser)
        loaded = kind.from_pretrained(found / generator.component, use_safetensors=True)
        generator.denoiser.load_state_dict(loaded.state_dict())


def _tuned(generator: Generator, folder: File) -> bool:
    """Return whether `save_trained` wrote into ``folder``."""
    return any((folder / name).is_file() for name in ADAPTERS) or (folder / generator.component).is_dir()


def _run_in(generator: Generator, folder: File) -> File:
    """Return the one run with tuned weights in ``folder``, which is none itself."""
    inner = [path.parent for path in sorted(folder.glob("*/run.json")) if _tuned(generator, path.parent)]
    if len(inner) != 1 or (folder / "run.json").is_file():
        why = f"tuned weights in {len(inner)} of its folders" if inner[1:] else "no tuned weights in it"
        raise BadInput(f"{folder}: {why}; give the folder of a finetune run that has finished, or a LoRA: tuned=RUN")
    return inner[0]


def knows_lora(generator: Generator) -> bool:
    """Return whether the pipeline itself loads and saves adapters of its denoiser."""
    return isinstance(generator.denoiser, PeftAdapterMixin) and hasattr(generator.pipe, "save_lora_weights")


def _check_dtype(config: GeneratorConfig) -> None:
    if config.dtype != "float32":
        raise BadInput("lora: null trains all weights, which needs 'generator.dtype: float32'")


def _check_targets(network: nn.Module, lora: LoraConfig) -> None:
    """Refuse targets that name no layer. Of the default ones a network may lack some, but not all."""
    layers = [name for name, module in network.named_modules() if isinstance(module, ADAPTABLE)]
    missing = [t for t in lora.target_modules if not any(f".{name}".endswith(f".{t}") for name in layers)]
    if missing and (lora.target_modules != ATTENTION or len(missing) == len(ATTENTION)):
        endings = [e for e, _ in Counter(".".join(_ending(name)) for name in layers).most_common()]
        near = difflib.get_close_matches(missing[0], endings, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(endings[:12])}"
        raise BadInput(f"lora.target_modules: {type(network).__name__} has no layer '{missing[0]}'; {hint}")


def _ending(name: str) -> list[str]:
    """Return the last parts of a layer's name, from its last word on: ``to_out.0`` of ``blocks.3.attn.to_out.0``."""
    parts = name.split(".")
    words = [i for i, part in enumerate(parts) if not part.isdigit()]
    return parts[words[-1] :]
