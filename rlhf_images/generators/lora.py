"""What is trained: LoRA adapters on the denoiser, or all of its weights; and files that plain diffusers reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model_state_dict

from ..config import Count
from ..errors import BadInput
from .pipeline import Generator

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


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


def make_trainable(generator: Generator, lora: LoraConfig | None, seed: int) -> None:
    """Attach adapters drawn from ``seed`` to the denoiser, or (None) open all of its weights, in float32."""
    denoiser: Any = generator.denoiser
    if lora is None:
        denoiser.requires_grad_(True)
    else:
        targets = list(lora.target_modules)
        config = PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, init_lora_weights="gaussian")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                denoiser.add_adapter(config)
            except ValueError as error:
                raise BadInput(f"lora.target_modules: {' '.join(str(error).split())[:200]}") from None
    for parameter in generator.parameters.values():
        parameter.data = parameter.data.float()
    if lora is None and generator.config.dtype != "float32":
        raise BadInput("lora: null trains all weights, which needs 'generator.dtype: float32'")


def save_trained(generator: Generator, lora: LoraConfig | None, folder: Path) -> None:
    """Write what was trained as plain diffusers reads it: ``pipe.load_lora_weights(folder)``, or the denoiser.

    A full denoiser lies in ``folder/transformer`` (or ``unet``) as ``save_pretrained`` writes it.
    """
    denoiser: Any = generator.denoiser
    if lora is None:
        denoiser.save_pretrained(folder / generator.component, safe_serialization=True)
        return
    metadata = denoiser.peft_config["default"].to_dict()
    part = generator.component
    weights = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(denoiser).items()}
    generator.pipe.save_lora_weights(
        folder, **{f"{part}_lora_layers": weights, f"{part}_lora_adapter_metadata": metadata}
    )


def load_trained(generator: Generator, folder: Path) -> None:
    """Put weights written by `save_trained` into ``generator``, as a user would, through diffusers."""
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        generator.pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    elif (folder / generator.component).is_dir():
        kind: Any = type(generator.denoiser)
        loaded = kind.from_pretrained(folder / generator.component, use_safetensors=True)
        generator.denoiser.load_state_dict(loaded.state_dict())
    else:
        raise BadInput(f"{folder}: no tuned weights in it")
    generator.denoiser.requires_grad_(False).eval()
