"""What a pipeline's own autoencoder and denoiser make of a picture: features for a reward model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..errors import BadInput
from ..randomness import Randomness
from .pipeline import Generator
from .settings import GeneratorConfig

BLOCKS = ("transformer_blocks", "joint_transformer_blocks", "layers", "blocks")
"""What diffusers' transformers call their blocks."""


@final
class PictureFeatures:
    """A frozen generator that looks at pictures. Its denoiser is asked without guidance, at one time."""

    def __init__(self, config: GeneratorConfig, time: float, device: torch.device | str = "cpu") -> None:
        """Load the pipeline of ``config``; ``time`` in (0, 1) is how noisy a picture the denoiser sees."""
        self.generator = Generator.load(replace(config, guidance=1.0, negative_prompt=None), device)
        pipe = self.generator.pipe
        self.vae, self.time = getattr(pipe, "vae", None), time
        if not isinstance(self.vae, AutoencoderKL) or hasattr(pipe, "_pack_latents"):
            raise BadInput(
                f"{config.path}: pictures cannot be taken into the latents of {type(pipe).__name__}, only into those of"
                " an AutoencoderKL that are not packed; take the features of an open_clip model"
            )
        self.size = int(config.height or self.generator.denoiser.config.sample_size * pipe.vae_scale_factor)  # type: ignore[union-attr]
        self.block = _middle(self.generator.denoiser, config.path)

    def modules(self) -> list[nn.Module]:
        """Return every network that decides the features, in the order of their names."""
        parts = self.generator.pipe.components.items()
        return [part for _, part in sorted(parts) if isinstance(part, nn.Module)]

    def latents(self, images: Tensor) -> Tensor:
        """Return the clean latents ``(B, C, h, w)``, as sampled, of ``images (B, 3, size, size)`` in [0, 1]."""
        vae: Any = self.vae
        pixels = (2 * images - 1).to(vae.dtype)
        z = vae.encode(pixels.to(vae.device)).latent_dist.mode().float()
        latents: Tensor = (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        return latents

    def hidden(self, prompts: Sequence[str], x0: Tensor) -> Tensor:
        """Return what the middle block of the denoiser says of noisy ``x0``, mean and spread over places ``(B, 2H)``.

        Every picture is given the same noise. Pictures of one prompt run together.
        """
        found: dict[int, Tensor] = {}
        for prompt in dict.fromkeys(prompts):
            rows = [row for row, other in enumerate(prompts) if other == prompt]
            found |= dict(zip(rows, self._asked(prompt, x0[rows]), strict=True))
        return torch.stack([found[row] for row in range(len(prompts))])

    def _asked(self, prompt: str, x0: Tensor) -> Tensor:
        noise = Randomness(0).normal("features", [0], x0.shape[1:]).to(x0)
        t = torch.full((len(x0),), self.time, device=x0.device)
        x = self.generator.path.add_noise(x0, noise.expand_as(x0), t)
        said: list[Any] = []
        handle = self.block.register_forward_hook(lambda _module, _inputs, output: said.append(output))
        try:
            self.generator.predict([prompt] * len(x0), x, t)
        finally:
            handle.remove()
        output = said[-1]
        hidden = output if isinstance(output, Tensor) else [part for part in output if isinstance(part, Tensor)][-1]
        places = hidden.float().flatten(2).mT if hidden.ndim == 4 else hidden.float()
        spread = (places.var(1, correction=0) + 1e-8).sqrt()
        return torch.cat([places.mean(1), spread], 1)[-len(x0) :]


def _middle(denoiser: nn.Module, path: str) -> nn.Module:
    """Return the block in the middle of the denoiser."""
    if isinstance(found := getattr(denoiser, "mid_block", None), nn.Module):
        return found
    for name in BLOCKS:
        blocks = getattr(denoiser, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            return blocks[len(blocks) // 2]
    raise BadInput(f"{path}: {type(denoiser).__name__} has no blocks that are known here; take the latents alone")
