"""A pipeline from a config. All that can be refused is refused on its configs alone, before a weight is read."""

import sys
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from torch import nn

from ..errors import BadInput, NonFinite
from ..math.path import Path
from .placement import check_tuning, place
from .scheduler import Schedule
from .settings import GeneratorConfig, call_settings
from .unsuitable import why_not

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError)


def load_pipeline(config: GeneratorConfig, device: torch.device | str) -> Any:
    """Return the pipeline at ``config.path`` on ``device``. Safetensors only, and no code from the checkpoint."""
    bars_only_on_a_terminal()
    check(config)
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            config.path, dtype=DTYPES[config.dtype], use_safetensors=True
        )
    except UNREADABLE as error:
        raise _unreadable(config.path, error) from None
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None  # it blackens pictures, which a reward would then learn from
    place(pipe, config, device)
    _refuse_non_finite(pipe, config.path)
    return pipe


def _refuse_non_finite(pipe: Any, path: str) -> None:
    """Refuse a pipeline with a weight that is NaN or infinite: from a broken conversion, or too large for its type."""
    for part, network in pipe.components.items():
        for name, weight in network.named_parameters() if isinstance(network, nn.Module) else ():
            if weight.dtype not in DTYPES.values() or weight.is_meta or not weight.numel():
                continue
            if not bool(torch.isfinite(torch.stack(weight.detach().aminmax())).all()):
                raise NonFinite(
                    f"{path}: weight {name} of its {part} holds numbers that are not finite, as {weight.dtype};"
                    " try generator.dtype: float32, or get the weights anew"
                )


def check(config: GeneratorConfig) -> Path:
    """Refuse a pipeline that cannot be tuned, or not called like this; return its noise path.

    Reads its configs, and none of its weights.
    """
    kind, index = index_of(config.path)
    reason = why_not(kind)
    if reason is not None:
        raise BadInput(f"{config.path}: {kind.__name__} {reason}")
    scheduler, settings = component_of(config.path, index, "scheduler")
    schedule = Schedule(scheduler.from_config(settings))
    schedule.check(config.steps)
    denoiser, settings = denoiser_of(config.path)
    call_settings(kind, index, settings, config)
    check_tuning(denoiser, config)
    return schedule.path


def denoiser_of(path: str) -> tuple[Any, dict[str, Any]]:
    """Return the class and the config of the denoiser of the pipeline at ``path``."""
    _, index = index_of(path)
    return component_of(path, index, "transformer" if index.get("transformer", [None])[0] else "unet")


def bars_only_on_a_terminal() -> None:
    """Keep the loading bars of diffusers and transformers out of logs."""
    if not sys.stderr.isatty():
        import diffusers.utils.logging
        import transformers.utils.logging

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def index_of(path: str) -> tuple[type, dict[str, Any]]:
    """Return the class of the pipeline at ``path``, and its config."""
    try:
        index = dict(diffusers.DiffusionPipeline.load_config(path))
        kind = getattr(diffusers, index["_class_name"])
        kind.from_pretrained  # noqa: B018 a class whose libraries are missing says here which
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    return kind, index


def component_of(path: str, index: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    """Return the class and the config of component ``name``."""
    library, kind = index.get(name) or (None, None)
    known: Any = getattr(diffusers, str(kind), None) if library == "diffusers" else None
    if known is None:
        raise BadInput(f"{path}: its {name} is no class of diffusers ({library}.{kind})")
    try:
        return known, dict(known.load_config(path, subfolder=name))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> BadInput:
    reason = " ".join(str(error).split())[:200]
    return BadInput(f"{path}: cannot be loaded as a diffusers pipeline ({reason})")
