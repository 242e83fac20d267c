"""What a pipeline has for the time of one call, and its own again after it, however the call is left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.pipelines.pag.pag_utils import PAGMixin


@contextmanager
def standing_in(pipe: Any, parts: dict[str, Any]) -> Iterator[None]:
    """Put ``parts`` in place of the pipeline's own, past diffusers' ``__setattr__``, which rewrites its config."""
    own = {name: pipe.__dict__[name] for name in parts if name in pipe.__dict__}
    pipe.__dict__.update(parts)
    try:
        yield
    finally:
        for name in parts:
            del pipe.__dict__[name]
        pipe.__dict__.update(own)


@contextmanager
def same_attention(pipe: Any, denoiser: Any) -> Iterator[None]:
    """Put back the attention that perturbed-attention guidance exchanges for the time of a call, and we leave early."""
    processors = denoiser.attn_processors if isinstance(pipe, PAGMixin) else None
    try:
        yield
    finally:
        if processors is not None:
            denoiser.set_attn_processor(processors)
