"""Where a pipeline's parts lie and how its denoiser computes: what costs memory and time, and changes no picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import BadInput
from .settings import GeneratorConfig


@final
class TextEncoders:
    """The text encoders of a pipeline: kept on its device, brought there to encode, or dropped after that."""

    def __init__(self, pipe: Any, config: GeneratorConfig) -> None:
        """Take hold of the encoders of ``pipe``; unless they are kept, move them to the host."""
        self.pipe, self.config = pipe, config
        self.parts = {name: part for name, part in pipe.components.items() if _is_encoder(name, part)}
        self.dropped = self.here = self.holds = False
        if config.text_encoders != "keep":
            self._move("cpu")

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Run with the encoders on the pipeline's device. Raises `BadInput` if they were dropped."""
        if self.dropped:
            raise BadInput(
                "a prompt that was not among the run's came after its text encoders were dropped; "
                "set 'generator.text_encoders: offload'"
            )
        if self.config.text_encoders == "keep" or self.here:
            yield
            return
        self.here = True
        self._move(self.pipe._execution_device)
        try:
            yield
        finally:
            if not self.holds:
                self._leave()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run with the encoders staying where they are once something has been encoded: for many prompts in turn."""
        self.holds = True
        try:
            yield
        finally:
            self.holds = False
            if self.here:
                self._leave()

    def finish(self) -> None:
        """Forget the encoders, if that is asked for: every prompt is known."""
        if self.config.text_encoders == "drop":
            for name in self.parts:  # past diffusers' __setattr__, which would rewrite the pipeline's config
                self.pipe.__dict__[name] = None
            self.parts.clear()
            self.dropped = True

    def _leave(self) -> None:
        self.here = False
        self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for part in self.parts.values():
            part.to(device)
        if torch.cuda.is_available() and str(device) == "cpu":
            torch.cuda.empty_cache()


def place(pipe: Any, config: GeneratorConfig, device: torch.device | str) -> None:
    """Move ``pipe`` to ``device``, but for the parts that ``config`` keeps away from it."""
    away = {name for name, part in pipe.components.items() if _is_encoder(name, part)}
    stays = (away if config.text_encoders != "keep" else set()) | ({"vae", "movq"} if config.offload_vae else set())
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and name not in stays:
            part.to(device)


def offload_vae(pipe: Any, denoiser: nn.Module) -> None:
    """Keep the autoencoder of ``pipe`` on the host, and bring it to the denoiser's device for each decoding.

    A decoding with gradient leaves it there: the backward pass needs its weights where they were.
    """
    vae: Any = getattr(pipe, "vae", None) or pipe.movq
    decode = vae.decode
    vae.to("cpu")

    def decoded(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        device = next(denoiser.parameters()).device
        vae.to(device)
        images = decode(z.to(device), *args, **kwargs)
        if not torch.is_grad_enabled():
            vae.to("cpu")
        return images

    vae.decode = decoded


def remember_device(pipe: Any, component: str) -> None:
    """Let ``pipe`` answer at once on which device it runs: that of its denoiser, ``component``.

    Diffusers looks at every module of every part for that, at every call, which is most of what a call costs beside its
    networks. It asks a property, which only a class can have; so the pipeline gets one of its own, by the same name.
    """
    kind = type(pipe)
    device = property(lambda own: next(getattr(own, component).parameters()).device)
    pipe.__class__ = type(kind.__name__, (kind,), {"_execution_device": device, "__module__": kind.__module__})


def tune(denoiser: Any, config: GeneratorConfig) -> None:
    """Switch on activation checkpointing, an attention backend and compiled blocks, where ``config`` asks for them."""
    if config.recompute_activations:
        denoiser.enable_gradient_checkpointing()
    if config.attention is not None:
        _use_attention(denoiser, config.attention)
    if config.compile is not None:
        denoiser.compile_repeated_blocks(backend=config.compile)


def check_tuning(kind: Any, config: GeneratorConfig) -> None:
    """Refuse what `tune` cannot do for denoisers of class ``kind``."""
    name = kind.__name__
    if config.recompute_activations and not getattr(kind, "_supports_gradient_checkpointing", False):
        raise BadInput(f"generator.recompute_activations: {name} cannot; set it to false")
    if config.compile is not None:
        backends = torch.compiler.list_backends(None)
        if config.compile not in backends:
            raise BadInput(f"generator.compile: no backend '{config.compile}'; there are {', '.join(backends)}")
        if not getattr(kind, "_repeated_blocks", None):
            raise BadInput(f"generator.compile: {name} names no repeated blocks; set it to null")
    if config.attention is not None:
        from diffusers.models.attention_dispatch import AttentionBackendName

        known = [backend.value for backend in AttentionBackendName]
        if config.attention not in known:
            raise BadInput(f"generator.attention: no backend '{config.attention}'; there are {', '.join(known)}")


def _use_attention(denoiser: Any, backend: str) -> None:
    try:
        denoiser.set_attention_backend(backend)
    except (RuntimeError, ValueError, ImportError) as error:
        raise BadInput(f"generator.attention: {' '.join(str(error).split())[:200]}") from None
    processors = [getattr(module, "processor", None) for module in denoiser.modules()]
    if not any(getattr(processor, "_attention_backend", None) is not None for processor in processors):
        raise BadInput(f"generator.attention: {type(denoiser).__name__} has its own attention; set it to null")


def _is_encoder(name: str, part: Any) -> bool:
    return name.startswith("text_encoder") and isinstance(part, nn.Module)
