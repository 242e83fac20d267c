"""Generator: any diffusers text-to-image pipeline as sample / predict / decode.

We rewrite no denoising loop. The pipeline's own ``__call__`` runs, and we stand at its scheduler (see `scheduler`), so
guidance, packing, time scaling and sign, masks and conditions are its own code in rollout and in training alike.

Legend: ``x (B, …)`` latents in the pipeline's own layout (FLUX packs them), ``t (B,)`` in [0, 1], 0 is clean.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..math.kernels import Gaussian, Kernel, ode
from ..math.path import Path, Prediction
from ..progress import is_main, progress, say
from . import encodings
from .batches import in_parts, same, whole
from .inverse import encoded, instead_of_decoding, solved
from .loading import load_pipeline
from .placement import TextEncoders, offload_vae, remember_device, tune
from .prompt_folder import PromptFolder
from .prompts_cache import Apart, PromptCache
from .scheduler import Catching, Caught, Empty, Recording, Schedule, StandIn
from .settings import GeneratorConfig, call_settings
from .standing_in import same_attention, standing_in
from .trajectory import Trajectory, joined
from .truncation import Cuts, by_all, cuts, told
from .unsuitable import why_not


@final
class Generator:
    """A pipeline and its call settings. Only the denoiser is ever trained; its parameters are `parameters`."""

    def __init__(self, pipe: Any, config: GeneratorConfig) -> None:
        """Take over ``pipe``, which lies where `placement.place` left it: freeze it, memoise its prompt encodings."""
        self.pipe, self.config = pipe, config
        reason = why_not(type(pipe))
        if reason is not None:
            raise BadInput(f"{config.path}: {type(pipe).__name__} {reason}")
        self.schedule = Schedule(pipe.scheduler)
        self._settings = call_settings(type(pipe), pipe.config, self._network.config, config)
        kind: Any = type(pipe)
        self._call: Any = kind.__call__.__wrapped__  # without its no_grad
        self._prepares = inspect.signature(pipe.prepare_latents)
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval()
        remember_device(pipe, self.component)
        self._encoders = TextEncoders(pipe, config)
        folder = None if config.prompt_cache is None else PromptFolder(config.prompt_cache, pipe)
        pipe.encode_prompt = PromptCache(pipe, folder, self._encoders.at_hand, self._blind_to_padding)
        pipe.set_progress_bar_config(disable=True)
        tune(self.denoiser, config)
        if config.offload_vae:
            offload_vae(pipe, self.denoiser)
        self._mixes: bool | None = None
        self.cut: Cuts = {}
        """What its text encoders do not read of the prompts that it was to `remember`, on the main process."""

    @classmethod
    def load(cls, config: GeneratorConfig, device: torch.device | str = "cpu") -> "Generator":
        """Return the pipeline at ``config.path``, on ``device``. Safetensors only, and no code from the checkpoint."""
        return cls(load_pipeline(config, device), config)

    @property
    def denoiser(self) -> nn.Module:
        """Return the network that is trained."""
        network: nn.Module = self._network
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

    def remember(self, prompts: Sequence[str]) -> None:
        """Say which ``prompts`` of a run are cut short, and encode them all now, if the text encoders do not stay.

        Or if there is a folder to keep them in. With ``text_encoders: drop`` no other can come after that. Each process
        of a launch begins elsewhere, so that in a folder of encodings they find one another's.
        """
        unique = list(dict.fromkeys(prompts))
        with self._encoders.held():
            if is_main() and unique:
                self._say_cuts(unique)
            if self.config.text_encoders == "keep" and self.config.prompt_cache is None:
                return
            start = len(unique) * int(os.environ.get("RANK", "0")) // int(os.environ.get("WORLD_SIZE", "1"))
            for prompt in progress(unique[start:] + unique[:start], "encode prompts"):
                self.encode_prompts([prompt])
            self.encode_prompts(
                list(self.pipe.encode_prompt.lengths.values())
            )  # which asks how different lengths are joined
        self._encoders.finish()

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

        def work(rows: list[int]) -> Trajectory:
            return self._sampled([prompts[i] for i in rows], [generators[i] for i in rows], kernel, drawn)

        with self._refusals():
            parts = in_parts(list(range(len(prompts))), work)
        return parts[0][1] if len(parts) == 1 else joined(parts)

    def predict(self, prompts: Sequence[str], x: Tensor, t: Tensor) -> Prediction:
        """Return the denoiser's opinion of noisy ``x (B, …)`` at ``t (B,)``, with gradient to its parameters.

        Where the pipeline takes one time a call, as with guidance that doubles the batch, equal times run together.
        """

        def work(rows: list[int]) -> Prediction:
            if len(rows) == len(t):
                return self._predicted(prompts, x, t)
            return self._predicted([prompts[i] for i in rows], x[rows], t[rows])

        times = t.unique()
        together = len(times) == 1 or self._mixes_times(prompts[0], x, t)
        groups = [list(range(len(t)))] if together else [(t == time).nonzero()[:, 0].tolist() for time in times]
        parts = [part for rows in groups for part in in_parts(rows, work)]
        return Prediction(whole([(r, p.x0) for r, p in parts]), whole([(r, p.eps) for r, p in parts]))

    def decode(self, prompts: Sequence[str], x0: Tensor) -> Tensor:
        """Return the pictures ``(B, 3, H, W)`` in [0, 1] of clean latents, with gradient to them."""

        def work(rows: list[int]) -> Tensor:
            mine = x0 if len(rows) == len(x0) else x0[rows]
            call = {"num_inference_steps": 1, "output_type": "pt"}
            return self._run(Empty(self.schedule), [prompts[i] for i in rows], self._given(mine), **call)

        return whole(in_parts(list(range(len(prompts))), work))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """Return the clean latents ``(B, …)`` of pictures ``(B, 3, H, W)`` in [0, 1], of the size that it draws.

        `decode` gives them back but for what the autoencoder loses.
        """

        def tail(x: Tensor) -> Tensor:
            found: list[Tensor] = []

            def heard(z: Tensor) -> None:
                found.append(z)
                raise Caught

            call = {"num_inference_steps": 1, "output_type": "pt"}
            with suppress(Caught), instead_of_decoding(vae, heard):
                self._run(Empty(self.schedule), prompts, self._given(x), **call)
            return found[0]

        vae: Any = getattr(self.pipe, "vae", None) or self.pipe.movq
        prompts = [prompts[0]] * len(images)  # they have no say in it, and lengths that may not run side by side do
        x = self._blank(prompts)
        return solved(tail, encoded(vae, images, tail(x)).to(x.device), x.shape).float()

    def inputs(self, prompt: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and keywords with which the pipeline calls its denoiser for a picture of ``prompt``."""
        found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def leave(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            found.append((args, keywords))
            raise Caught

        call = {"generator": [torch.Generator()], "num_inference_steps": self.config.steps, "output_type": "latent"}
        hook = self.denoiser.register_forward_pre_hook(leave, with_kwargs=True)
        with torch.no_grad(), suppress(Caught):
            self._run(Recording(self.schedule, ode, torch.zeros), [prompt], None, **call)
        hook.remove()
        return found[0]

    def settle(self, prompt: str) -> None:
        """Find out now, on noise, whether a call takes several times.

        Where it does not, that trial ends halfway through the denoiser: which one in parts, that others run too, must
        not.
        """
        x = self._blank([prompt] * 2)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        self._mixes_times(prompt, noise.to(x), torch.tensor([0.5, 0.25], device=x.device))

    def times(self, prompt: str) -> Tensor:
        """Return the times ``(T + 1,)`` of its sampling schedule, falling; the last is where it ends."""

        def leave(*_: Any) -> Gaussian:
            raise Caught

        recording = Recording(self.schedule, leave, torch.zeros)
        call = {"generator": [torch.Generator()], "num_inference_steps": self.config.steps, "output_type": "latent"}
        with torch.no_grad(), suppress(Caught):
            self._run(recording, [prompt], None, **call)
        return recording.times

    def shapes(self, prompt: str) -> tuple[torch.Size, torch.Size]:
        """Return the shapes of a picture's latents, and of a picture: ``(3, H, W)``."""
        blank = self._blank([prompt])
        with torch.no_grad():
            return blank[0].shape, self.decode([prompt], blank)[0].shape

    @property
    def _network(self) -> Any:
        return getattr(self.pipe, self.component)

    def _sampled(
        self, prompts: list[str], generators: list[torch.Generator], kernel: Kernel, drawn: range | None
    ) -> Trajectory:
        def noise(shape: torch.Size) -> Tensor:
            return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])

        recording = Recording(self.schedule, kernel, noise, drawn)
        call = {"generator": generators, "num_inference_steps": self.config.steps, "output_type": "pt"}
        images = self._run(recording, prompts, None, **call)
        return Trajectory(images, recording.x, recording.times, recording.gaussians)

    def _predicted(self, prompts: Sequence[str], x: Tensor, t: Tensor) -> Prediction:
        catching = Catching(self.schedule, t[0] if len(t.unique()) == 1 else t)
        try:
            self._run(catching, prompts, self._given(x), num_inference_steps=1, output_type="latent")
        except Caught:
            return self.path.read(catching.model_output.float(), x, t, self.schedule.output)
        raise BadInput(f"{type(self.pipe).__name__}: its call never asked its scheduler for a step")

    def encode_prompts(self, prompts: list[str]) -> None:
        """Encode ``prompts``: run the pipeline's call up to where it prepares its latents, by when all are encoded."""

        def leave(*_: Any, **__: Any) -> None:
            raise Caught

        with suppress(Caught, Apart):
            self._run(Empty(self.schedule), prompts, leave, num_inference_steps=1, output_type="latent")

    def _say_cuts(self, prompts: list[str]) -> None:
        """Look which of ``prompts`` are not read to their end, past the memory of encodings, and say it."""
        encode = self.pipe.encode_prompt.encode

        def encoded(prompt: str) -> str:
            made: list[Any] = []

            def heard(*args: Any, **kwargs: Any) -> Any:
                made.append(encode(*args, **kwargs))
                return made[-1]

            with standing_in(self.pipe, {"encode_prompt": heard}):
                self.encode_prompts([prompt])
            return encodings.fingerprint(made[0])

        with self._encoders.at_hand(), torch.no_grad(), self._refusals():
            self.cut = cuts(self.pipe, encoded, prompts)
        if told(self.cut):
            short = len(by_all(self.cut))
            whole = f"{short} are read to their end by none" if short else "another reads them to their end"
            say(f"of {len(prompts)} prompts {told(self.cut)}; {whole}")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Within its ``with``, what the pipeline's own check of its inputs refuses is bad input."""
        try:
            yield
        except ValueError as error:
            text = " ".join(str(error).split())
            raise BadInput(f"{self.config.path}: {type(self.pipe).__name__}: {text}") from error

    def _blank(self, prompts: Sequence[str]) -> Tensor:
        """Return zeros in the place of the latents of a batch of ``prompts``, as the scheduler sees them."""
        prepare, made = self.pipe.prepare_latents, []

        def leave(*args: Any, **kwargs: Any) -> Any:
            arguments = {**self._prepares.bind(*args, **kwargs).arguments, "latents": None}
            answer = prepare(**arguments | {"generator": torch.Generator()})
            made.append(answer if isinstance(answer, Tensor) else answer[0])
            raise Caught

        with suppress(Caught):
            self._run(Empty(self.schedule), prompts, leave, num_inference_steps=1, output_type="latent")
        return torch.zeros_like(made[0], dtype=torch.float32)

    def _run(
        self, scheduler: StandIn, prompts: Sequence[str], prepare: Callable[..., Any] | None, **call: Any
    ) -> Tensor:
        """Run the pipeline's own call, without its ``no_grad``, with ours in place of its scheduler and its latents."""
        settings = dict(self._settings)
        if isinstance(settings.get("negative_prompt"), str):
            settings["negative_prompt"] = [settings["negative_prompt"]] * len(prompts)
        parts = {"scheduler": scheduler} if prepare is None else {"scheduler": scheduler, "prepare_latents": prepare}
        with standing_in(self.pipe, parts), same_attention(self.pipe, self._network):
            images = self._call(self.pipe, prompt=list(prompts), **settings, **call).images
        return self._as_pictures(images)

    def _given(self, x: Tensor) -> Callable[..., Any]:
        """Return what stands in for the pipeline's ``prepare_latents``: its own answer, with ``x`` for its noise.

        So x arrives in the layout in which the scheduler sees it, on the device and in the type that the pipeline has.
        """
        prepare = self.pipe.prepare_latents

        def given(*args: Any, **kwargs: Any) -> Any:
            arguments = {**self._prepares.bind(*args, **kwargs).arguments, "latents": None}
            made = prepare(**arguments | {"generator": torch.Generator()})  # not the global one: it may not be moved
            return x.to(made) if isinstance(made, Tensor) else (x.to(made[0]), *made[1:])

        return given

    def _as_pictures(self, images: Tensor) -> Tensor:
        """Return ``images`` as ``(B, 3, H, W)`` in [0, 1]."""
        images = images.float()
        if getattr(self.pipe, "image_processor", None) is None:  # which is what scales the others' (Kandinsky 3)
            images = (images / 2 + 0.5).clamp(0, 1)
        if images.shape[1] == 4:  # transparent ones (Qwen-Image 2.1) are seen on white
            colours, alpha = images.split([3, 1], 1)
            images = colours * alpha + (1 - alpha)
        return images

    def _mixes_times(self, prompt: str, x: Tensor, t: Tensor) -> bool:
        """Return whether the pipeline takes a time of its own for each picture, seen once by trying it on two."""
        if self._mixes is None:
            rows = [0, int((t != t[0]).nonzero()[0, 0])]
            with torch.no_grad():
                apart = [self._predicted([prompt], x[[row]], t[[row]]).x0 for row in rows]
                try:
                    together = self._predicted([prompt] * 2, x[rows], t[rows]).x0
                except (RuntimeError, TypeError, ValueError):  # its own code wants a single number
                    self._mixes = False
                else:
                    self._mixes = same(together, torch.cat(apart))
        return self._mixes

    @torch.no_grad()
    def _blind_to_padding(self, prompts: list[str]) -> bool:
        """Return whether the denoiser says of two prompts together what it says of each."""

        def output(rows: list[int]) -> Tensor:
            catching = Catching(self.schedule, torch.tensor(0.5, device=self.device))
            generators = [torch.Generator().manual_seed(row) for row in rows]
            with suppress(Caught):
                call = {"generator": generators, "num_inference_steps": 1, "output_type": "latent"}
                self._run(catching, [prompts[row] for row in rows], None, **call)
            return catching.model_output

        return same(output([0, 1]), torch.cat([output([0]), output([1])]))
