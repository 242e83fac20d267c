"""Generator: any diffusers text-to-image pipeline as sample / predict / decode.

We rewrite no denoising loop. The pipeline's own ``__call__`` runs, and we stand at its scheduler (see `scheduler`), so
guidance, packing, time scaling and sign, masks and conditions are its own code in rollout and in training alike.

Legend: ``x (B, …)`` latents in the pipeline's own layout (FLUX packs them), ``t (B,)`` in [0, 1], 0 is clean.
"""

import difflib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from ..config import Count
from ..errors import BadInput
from ..math.kernels import Gaussian, Kernel, ode
from ..math.path import Path, Prediction
from .prompts_cache import PromptCache
from .scheduler import Catching, Caught, Empty, Recording, Schedule, StandIn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@final
@dataclass(frozen=True)
class GeneratorConfig:
    """Which pipeline, and how it is called: the same in every stage, so that all sample alike."""

    path: str
    """A folder written by ``save_pretrained``, or a name on the hub."""
    steps: Count = 28
    """Sampling steps."""
    guidance: float = 1.0
    """``guidance_scale`` of the call. 1 is no classifier-free guidance (half the cost); FLUX.1-dev embeds 3.5."""
    height: Count | None = None
    """Pixels; the pipeline's own default where not given."""
    width: Count | None = None
    """Pixels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights and the denoiser's arithmetic. Latents and trained LoRA weights stay in float32."""
    call: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    """Any other keyword of the pipeline's ``__call__``, such as ``max_sequence_length``."""


@final
@dataclass(frozen=True)
class Trajectory:
    """What a call left.

    ``images (B, 3, H, W)`` in [0, 1], T + 1 latents ``x_TB`` at ``times``, and the T ``gaussians`` that they were drawn
    from, of std 0 where a step was deterministic.
    """

    images: Tensor
    x_TB: list[Tensor]
    times: Tensor
    gaussians: list[Gaussian]


@final
class Generator:
    """A pipeline and its call settings. Only the denoiser is ever trained; its parameters are `parameters`."""

    def __init__(self, pipe: Any, config: GeneratorConfig) -> None:
        """Take over ``pipe``: freeze it, put it in eval mode, memoise its prompt encodings."""
        self.pipe, self.config = pipe, config
        self.schedule = Schedule(pipe.scheduler)
        self._call: Any = type(pipe).__call__
        if not hasattr(self._call, "__wrapped__") or not hasattr(pipe, "encode_prompt"):
            raise BadInput(f"{type(pipe).__name__}: not a text-to-image pipeline of diffusers' usual shape")
        self._settings = self._checked_settings()
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval()
        pipe.encode_prompt = PromptCache(pipe.encode_prompt)
        pipe.set_progress_bar_config(disable=True)
        self._doubles: bool | None = None

    @classmethod
    def load(cls, config: GeneratorConfig, device: torch.device | str = "cpu") -> "Generator":
        """Return the pipeline at ``config.path``, on ``device``. Safetensors only, and no code from the checkpoint."""
        from diffusers import DiffusionPipeline

        bars_only_on_a_terminal()
        try:
            pipe = DiffusionPipeline.from_pretrained(config.path, dtype=DTYPES[config.dtype], use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadInput(f"{config.path}: cannot be loaded as a diffusers pipeline ({reason})") from None
        if getattr(pipe, "safety_checker", None) is not None:
            pipe.safety_checker = None  # it blackens pictures, which a reward would then learn from
        return cls(pipe.to(device), config)

    @property
    def denoiser(self) -> nn.Module:
        """Return the network that is trained."""
        network: nn.Module = getattr(self.pipe, self.component)
        return network

    @property
    def component(self) -> str:
        """Return the denoiser's name in the pipeline."""
        return "transformer" if getattr(self.pipe, "transformer", None) is not None else "unet"

    @property
    def path(self) -> Path:
        """Return the noise path."""
        return self.schedule.path

    @property
    def device(self) -> torch.device:
        """Return where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        kernel: Kernel = ode,
        drawn: range | None = None,
    ) -> Trajectory:
        """Return pictures of ``prompts``, one each; picture i draws its noise from ``generators[i]``, on the CPU.

        ``kernel`` is that of the steps whose number is in ``drawn`` (None: all); the others follow the ODE.
        """

        def noise(shape: torch.Size) -> Tensor:
            return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])

        recording = Recording(self.schedule, kernel, noise, drawn)
        steps = self.config.steps
        try:
            images = self._run(
                recording, prompts, generator=list(generators), num_inference_steps=steps, output_type="pt"
            )
        except ValueError as error:  # what a pipeline's own check of its inputs raises
            raise BadInput(f"{self.config.path}: {type(self.pipe).__name__}: {' '.join(str(error).split())}") from error
        return Trajectory(images.float(), recording.x, recording.times, recording.gaussians)

    def predict(self, prompts: Sequence[str], x: Tensor, t: Tensor) -> Prediction:
        """Return the denoiser's opinion of noisy ``x (B, …)`` at ``t (B,)``, with gradient to its parameters.

        With guidance that doubles the batch, samples are run in groups of equal time.
        """
        times = t.unique()
        if len(times) > 1 and self._guidance_doubles(prompts, x):
            return self._predict_by_time(prompts, x, t, times)
        catching = Catching(self.schedule, t[0] if len(times) == 1 else t)
        try:
            self._run(catching, prompts, latents=self._rounded(x), num_inference_steps=1, output_type="latent")
        except Caught:
            return self.path.read(catching.model_output.float(), x, t, self.schedule.output)
        raise BadInput(f"{type(self.pipe).__name__}: its call never asked its scheduler for a step")

    def decode(self, prompts: Sequence[str], x0: Tensor) -> Tensor:
        """Return the pictures ``(B, 3, H, W)`` in [0, 1] of clean latents, with gradient to them."""
        empty = Empty(self.schedule)
        images = self._run(empty, prompts, latents=self._rounded(x0), num_inference_steps=1, output_type="pt")
        return images.float()

    def _run(self, scheduler: StandIn, prompts: Sequence[str], **call: Any) -> Tensor:
        """Run the pipeline's own call, without its ``no_grad``, with ``scheduler`` in place of its own."""
        with _standing_at(self.pipe, scheduler):
            images: Tensor = self._call.__wrapped__(self.pipe, prompt=list(prompts), **self._settings, **call).images
            return images

    def _predict_by_time(self, prompts: Sequence[str], x: Tensor, t: Tensor, times: Tensor) -> Prediction:
        x0, eps = torch.zeros_like(x), torch.zeros_like(x)
        for time in times:
            here = (t == time).nonzero()[:, 0]
            part = self.predict([prompts[i] for i in here.tolist()], x[here], t[here])
            x0, eps = x0.index_copy(0, here, part.x0), eps.index_copy(0, here, part.eps)
        return Prediction(x0, eps)

    def _guidance_doubles(self, prompts: Sequence[str], x: Tensor) -> bool:
        """Return whether the pipeline runs the denoiser on twice the batch, seen once by looking at its input."""
        if self._doubles is None:
            sizes: list[int] = []

            def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim > 1]
                sizes.append(len(tensors[0]))

            hook = self.denoiser.register_forward_pre_hook(look, with_kwargs=True)
            try:
                with torch.no_grad():
                    self.predict(prompts[:1], x[:1], torch.full((1,), 0.5, device=x.device))
            finally:
                hook.remove()
            self._doubles = sizes[0] > 1
        return self._doubles

    def _rounded(self, x: Tensor) -> Tensor:
        return x.to(self.device, DTYPES[self.config.dtype])

    def _checked_settings(self) -> dict[str, Any]:
        """Return the config as keywords of the pipeline's call; refuse those that it does not have."""
        known = inspect.signature(self._call).parameters
        ours = {
            "prompt",
            "latents",
            "generator",
            "num_inference_steps",
            "output_type",
            "return_dict",
            "num_images_per_prompt",
        }
        settings: dict[str, Any] = {"guidance_scale": self.config.guidance, **self.config.call}
        settings |= {k: v for k, v in (("height", self.config.height), ("width", self.config.width)) if v is not None}
        for name in settings:
            if name not in known or name in ours:
                near = difflib.get_close_matches(name, set(known) - ours, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise BadInput(f"generator.call: {type(self.pipe).__name__} takes no setting '{name}'{hint}")
        return settings


def bars_only_on_a_terminal() -> None:
    """Keep the loading bars of diffusers and transformers out of logs."""
    if not sys.stderr.isatty():
        import diffusers.utils.logging
        import transformers.utils.logging

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


@contextmanager
def _standing_at(pipe: Any, scheduler: StandIn) -> Iterator[None]:
    """Put ``scheduler`` in place of the pipeline's own, past diffusers' ``__setattr__``, which rewrites its config."""
    shipped, pipe.__dict__["scheduler"] = pipe.scheduler, scheduler
    try:
        yield
    finally:
        pipe.__dict__["scheduler"] = shipped
