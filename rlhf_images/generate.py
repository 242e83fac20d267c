"""Stage `generate`: pictures of prompts from any diffusers pipeline, laid out in pairs for labelling."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch

from .changes import Fields
from .config import Count, NonNegative
from .data import encode
from .errors import NonFinite
from .generators import Generator, GeneratorConfig
from .generators.lora import load_trained
from .preferences import Pairs, Picture, PreferencePair, latents
from .preferences.pairs import picture_id
from .progress import progress, say
from .prompts import read_prompts
from .randomness import Randomness
from .runs import Run
from .sampling import sample


@final
@dataclass(frozen=True)
class GenerateConfig:
    """What is drawn, and how many pairs of it."""

    generator: GeneratorConfig
    """The pipeline, and how it is called."""
    prompts: str | tuple[str, ...]
    """``digits``, a text file with one prompt a line, or a list."""
    out: str
    """Folder of the pairs."""
    tuned: str | None = None
    """A finetune run whose weights the pipeline gets, or a folder with a LoRA; null draws with the pipeline alone."""
    pairs_per_prompt: Count = 4
    """Each pair has two pictures of its own, which no other pair shows."""
    seed: NonNegative = 0
    """Of the pictures."""
    keep_latents: bool = True
    """Keep the latents beside the pictures, which spares `dpo` the encoder; 0.25 MB each for SD3 at 512²."""
    micro_size: Count = 64
    """Pictures sampled at a time."""


FIELDS = Fields(
    frozen="""
        generator.path generator.steps generator.guidance generator.negative_prompt generator.embedded_guidance
        generator.height generator.width generator.dtype generator.call generator.compile generator.attention
        prompts tuned pairs_per_prompt keep_latents seed
    """,
    free="""
        out micro_size
        generator.prompt_cache generator.text_encoders generator.offload_vae generator.recompute_activations
    """,
)
"""What may change when the stage is begun again."""


def generate(config: GenerateConfig) -> None:
    """Draw the pictures and write the folder of pairs."""
    run = Run("generate", config, config.out, inputs=_inputs(config), fields=FIELDS)
    if run.finished:
        return say(f"{config.out}: already generated")
    prompts = read_prompts(config.prompts)
    generator = Generator.load(config.generator, "cuda" if torch.cuda.is_available() else "cpu")
    generator.remember(prompts)
    if config.tuned is not None:
        load_trained(generator, Path(config.tuned))
    run.save()
    wanted = [prompt for prompt in prompts for _ in range(2 * config.pairs_per_prompt)]
    pictures: list[tuple[bytes, Picture]] = []
    settings = asdict(config.generator) | ({"run": config.tuned} if config.tuned else {})
    starts = range(0, len(wanted), config.micro_size)
    for start in progress(starts, "generate"):
        index = list(range(start, min(start + config.micro_size, len(wanted))))
        part = [wanted[i] for i in index]
        images, x0 = _drawn(generator, part, index, config.seed)
        for row, (i, prompt) in enumerate(zip(index, part, strict=True)):
            data = encode(images[row])
            pictures.append((data, Picture(picture_id(data), prompt, config.seed, i, settings)))
            if config.keep_latents:
                latents.keep(run.folder, picture_id(data), x0[row])
    ids = [picture.id for _, picture in pictures]
    pairs = [
        PreferencePair(f"{i // 2:06d}", wanted[i], ids[i], ids[i + 1])
        for i in range(0, len(ids), 2)
        if ids[i] != ids[i + 1]
    ]
    Pairs.create(config.out, pictures, pairs)
    run.save(finished=True, pairs=len(pairs), pictures=len(set(ids)))
    return say(f"{len(pairs)} pairs of {len(prompts)} prompts in {config.out}; next: rlhf-images label {config.out}")


def _inputs(config: GenerateConfig) -> tuple[str, ...]:
    return (config.generator.path, *((config.tuned,) if config.tuned else ()))


def _drawn(generator: Generator, prompts: list[str], index: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures and the latents that they were decoded from."""
    drawn = sample(generator, prompts, index, Randomness(seed), len(prompts))
    if not bool(torch.isfinite(drawn.images).all()):
        raise NonFinite("a drawn picture is not finite; try generator.dtype bfloat16 or float32")
    return drawn.images, drawn.x0
