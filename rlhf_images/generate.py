"""Stage `generate`: pictures of prompts from any diffusers pipeline, laid out in pairs for labelling."""

from collections.abc import Iterator
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
    settings = asdict(config.generator) | ({"run": config.tuned} if config.tuned else {})
    ids: list[str] = []

    def pictures() -> Iterator[tuple[bytes, Picture]]:
        for start in progress(range(0, len(wanted), config.micro_size), "generate"):
            index = list(range(start, min(start + config.micro_size, len(wanted))))
            images, x0 = _drawn(generator, [wanted[i] for i in index], index, config.seed)
            for row, i in enumerate(index):
                data = encode(images[row])
                ids.append(picture_id(data))
                if config.keep_latents:
                    latents.keep(run.folder, ids[i], x0[row])
                yield data, Picture(ids[i], wanted[i], config.seed, i, settings)

    def pairs() -> Iterator[PreferencePair]:
        for i in range(0, len(ids), 2):
            if ids[i] != ids[i + 1]:
                yield PreferencePair(f"{i // 2:06d}", wanted[i], ids[i], ids[i + 1])

    made = len(Pairs.create(config.out, pictures(), pairs()).pairs)
    run.save(finished=True, pairs=made, pictures=len(set(ids)))
    return say(f"{made} pairs of {len(prompts)} prompts in {config.out}; next: rlhf-images label {config.out}")


def _inputs(config: GenerateConfig) -> tuple[str, ...]:
    return (config.generator.path, *((config.tuned,) if config.tuned else ()))


def _drawn(generator: Generator, prompts: list[str], index: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures and the latents that they were decoded from."""
    drawn = sample(generator, prompts, index, Randomness(seed), len(prompts))
    if not bool(torch.isfinite(drawn.images).all()):
        raise NonFinite("a drawn picture is not finite; try generator.dtype bfloat16 or float32")
    return drawn.images, drawn.x0
