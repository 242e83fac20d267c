"""Stage `pretrain`: a small text-to-image generator learnt from captioned pictures, as a genuine diffusers pipeline.

First the autoencoder, by reconstruction; then, on its latents, the transformer by flow matching (Lipman et al. 2023)
with logit-normal times (Esser et al. 2024), through the same `Generator.predict` that fine-tuning uses.
"""

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .changes import Fields
from .checkpoint import (
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    prefixed,
    save_checkpoint,
    under,
)
from .config import Count, Fraction, NonNegative, Positive
from .data import Captioned, captioned
from .errors import NonFinite
from .files import disk_errors, sync_tree
from .generators import Generator, GeneratorConfig, bars_only_on_a_terminal
from .generators.tiny import TinyConfig, build
from .interruption import Interruption
from .math.objectives import squared_error
from .progress import progress, say
from .randomness import Randomness
from .runs import Run


@final
@dataclass(frozen=True)
class TrainingConfig:
    """One of the two trainings."""

    steps: Count
    """Optimiser steps."""
    batch: Count = 64
    """Pictures a step."""
    lr: Positive = 2e-3
    """Peak of a one-cycle schedule: up for a tenth of the steps, then down to nothing."""


@final
@dataclass(frozen=True)
class PretrainConfig:
    """What is learnt, from what, and how large."""

    data: str
    """``digits``, a folder with ``metadata.jsonl`` (file_name, text), or any data set with columns image and text."""
    out: str
    """Folder of the pipeline."""
    size: Count = 16
    """Side of the pictures in pixels."""
    seed: NonNegative = 0
    """Of every random number."""
    model: TinyConfig = field(default_factory=TinyConfig)
    """Sizes of the networks."""
    autoencoder: TrainingConfig = TrainingConfig(steps=200, lr=4e-3)
    """How the autoencoder is trained."""
    transformer: TrainingConfig = TrainingConfig(steps=500)
    """How the transformer is trained."""
    caption_dropout: Fraction = 0.1
    """Share of pictures learnt without their caption, which lets the generator be guided."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not go together."""
        if not self.model.channels:
            raise ValueError("model.channels: no resolution in it; give one number each, such as [16, 32]")
        side = self.model.patch << (len(self.model.channels) - 1)
        if self.size % side:
            raise ValueError(f"size {self.size} is not a multiple of {side}: patch · 2^(number of channels - 1)")
        if any(channels % 8 for channels in self.model.channels):
            raise ValueError(f"model.channels {list(self.model.channels)}: each must be a multiple of 8")


FIELDS = Fields(
    # The learning rate's cycle spans all steps: a longer training is another one from its first step on.
    frozen="""
        data size seed caption_dropout autoencoder.steps autoencoder.batch autoencoder.lr
        transformer.steps transformer.batch transformer.lr
        model.layers model.heads model.patch model.latent_channels model.channels
        model.text_width model.text_tokens model.vocabulary
    """,
    free="out checkpoint_every",
)
"""What may change when a training continues."""


def pretrain(config: PretrainConfig) -> None:
    """Learn a generator and save it to ``config.out``, where ``DiffusionPipeline.from_pretrained`` reads it."""
    run = Run("pretrain", config, config.out, fields=FIELDS)
    if run.finished:
        return say(f"{config.out}: already trained; remove that folder to train it again")
    data = captioned(config.data, config.size)
    for name, reason in data.set_aside:
        say(f"set aside: {name} ({reason})")
    say(f"{len(data.images)} captioned pictures, {len(data.set_aside)} set aside")
    run.save()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bars_only_on_a_terminal()
    pipe: Any = build(config.model, config.size, data.captions, config.seed)
    pipe.to(device)
    with Interruption() as interruption:
        session = _Session(config, run, interruption)
        train_autoencoder(pipe.vae, data, session)
        latents = _normalised_latents(pipe.vae, data.images)
        called = GeneratorConfig(path=config.out, call={"max_sequence_length": config.model.text_tokens})
        generator = Generator(pipe, called)
        train_denoiser(generator, latents, data.captions, session)
    pipe.encode_prompt = pipe.encode_prompt.encode
    pipe.tokenizer.backend_tokenizer.no_truncation()  # the last call's settings stay in a tokenizer, and would be saved
    pipe.tokenizer.backend_tokenizer.no_padding()
    with disk_errors(run.folder):
        pipe.save_pretrained(run.folder, safe_serialization=True)
    sync_tree(run.folder)
    run.save(finished=True, set_aside=data.set_aside, pictures=len(data.images))
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return say(f"generator saved to {config.out}")


@final
@dataclass(frozen=True)
class _Session:
    """What both trainings share."""

    config: PretrainConfig
    run: Run
    interruption: Interruption


def train_autoencoder(vae: Any, data: Captioned, session: _Session) -> None:
    """Train ``vae`` to reconstruct, with a weak pull of its latents to a standard normal."""
    config = session.config

    def loss(step: int) -> Tensor:
        randomness = Randomness(config.seed, step)
        images = data.images[_rows(randomness, len(data.images), config.autoencoder.batch)].to(vae.device) * 2 - 1
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=randomness.generator("posterior")).to(images)
        latents = posterior.mean + posterior.std * noise
        reconstruction: Tensor = vae.decode(latents).sample
        pull: Tensor = posterior.kl().mean() / latents[0].numel()
        return mse_loss(reconstruction, images) + 1e-4 * pull

    _train("autoencoder", vae, loss, config.autoencoder, session)


def train_denoiser(generator: Generator, latents: Tensor, captions: list[str], session: _Session) -> None:
    """Train the denoiser of ``generator`` on ``latents (N, …)`` by flow matching."""
    config = session.config

    def loss(step: int) -> Tensor:
        randomness = Randomness(config.seed, step)
        batch = config.transformer.batch
        rows = _rows(randomness, len(latents), batch)
        dropped = torch.rand(batch, generator=randomness.generator("caption")) < config.caption_dropout
        prompts = ["" if drop else captions[row] for row, drop in zip(rows.tolist(), dropped.tolist(), strict=True)]
        x0 = latents[rows].to(generator.device)
        eps = torch.randn(x0.shape, generator=randomness.generator("noise")).to(x0)
        t = torch.sigmoid(torch.randn(batch, generator=randomness.generator("time"))).to(x0)
        prediction = generator.predict(prompts, generator.path.add_noise(x0, eps, t), t)
        return squared_error(generator.path.velocity(prediction, t), eps - x0).mean()

    _train("transformer", generator.denoiser, loss, config.transformer, session)


def _train(
    name: str, module: nn.Module, loss: Callable[[int], Tensor], training: TrainingConfig, session: _Session
) -> None:
    """Run AdamW on ``loss(step)``, with checkpoints; leave the moving average of the weights in ``module``, frozen."""
    module.requires_grad_(True)
    average = copy.deepcopy(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=training.lr, betas=(0.9, 0.99), weight_decay=0.01)
    names = [parameter_name for parameter_name, _ in module.named_parameters()]
    checkpoints = session.run.folder / "checkpoints" / name
    start = _resume(module, average, optimizer, names, checkpoints)
    note: dict[str, str] = {}
    for step in progress(range(start, training.steps), name, training.steps, start, note):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * one_cycle(step, training.steps)
        value = loss(step)
        if not bool(torch.isfinite(value)):
            raise NonFinite(f"{name}: loss is {value.item()} at step {step}; the step was refused; try a smaller lr")
        optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            raise NonFinite(
                f"{name}: the gradient is not finite at step {step}; the step was refused; try a smaller lr"
            )
        optimizer.step()
        _follow(average, module, keep=min(step / (step + 2), 0.98))
        note["loss"] = f"{value.item():.4f}"
        due = (step + 1) % session.config.checkpoint_every == 0
        if session.interruption.signal or due or step + 1 == training.steps:
            tensors = {**prefixed("module", module.state_dict()), **prefixed("average", average.state_dict())}
            tensors |= prefixed("optimizer", optimizer_tensors(optimizer, names))
            save_checkpoint(checkpoints, step + 1, tensors, {})
        if session.interruption.signal:
            session.run.save()
            raise session.interruption.stop(f"step {step + 1} of the {name} is saved")
    module.load_state_dict(average.state_dict())
    module.requires_grad_(False).eval()


def _resume(
    module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, names: list[str], checkpoints: Path
) -> int:
    """Put the newest checkpoint back and return its step, or 0."""
    found = load_checkpoint(checkpoints)
    if found is None:
        return 0
    tensors, state = found
    module.load_state_dict(under("module", tensors))
    average.load_state_dict(under("average", tensors))
    load_optimizer_tensors(optimizer, names, under("optimizer", tensors))
    return int(state["step"])


def one_cycle(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at ``step``: linear up for a tenth of ``steps``, then linear down."""
    rise = max(steps // 10, 1)
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, keep: float) -> None:
    for kept, new in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - keep)


@torch.no_grad()
def _normalised_latents(vae: Any, images: Tensor) -> Tensor:
    """Return the latents ``(N, …)`` of all pictures, mean 0 and std 1, and write that scaling into the VAE's config."""
    batches: Iterator[Tensor] = (vae.encode(part.to(vae.device) * 2 - 1).latent_dist.mean for part in images.split(256))
    latents = torch.cat(list(batches))
    shift, scale = float(latents.mean()), float(1 / latents.std())
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (latents - shift) * scale


def _rows(randomness: Randomness, size: int, batch: int) -> Tensor:
    return torch.randint(size, (batch,), generator=randomness.generator("rows"))
