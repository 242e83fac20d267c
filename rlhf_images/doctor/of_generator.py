"""Checks of the generator and of what is learnt from it."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..algorithms.grpo import GRPO
from ..algorithms.policy_gradient import PolicyGradient
from ..finetune import ADVANTAGES
from ..generators import Generator
from ..generators.lora import load_trained, save_trained
from ..generators.truncation import by_all, told
from ..math.kernels import Gaussian, Kernel
from ..prompt_statistics import PromptStatistics
from ..randomness import Randomness
from ..sampling import Rollout, sample
from .findings import Finding
from .patient import PICTURES, Patient

RATIO_OFF = 1e-4
"""How far from 1 a ratio of likelihoods may be: the narrowest clip in use (Flow-GRPO's) is as wide."""


def schedule(patient: Patient) -> Finding:
    """The times of sampling fall from noise to clean, and no step has length 0."""
    times = patient.rollout.times[0].cpu()
    if bool((times.diff() >= 0).any()):
        said = ", ".join(f"{time:.2f}" for time in times.tolist()[:6])
        return Finding.bad(
            "schedule", f"times do not fall ({said} …)", "look at the scheduler's config: invert_sigmas, sigmas, steps"
        )
    return Finding.good("schedule", f"{len(times) - 1} steps from {times[0]:.3f} to {times[-1]:.3f}")


def pictures(patient: Patient) -> Finding:
    """Pictures are finite, in [0, 1], and not all of one colour."""
    images = patient.rollout.images
    low, high = float(images.min()), float(images.max())
    if not bool(torch.isfinite(images).all() and torch.isfinite(patient.rollout.x0).all()):
        return Finding.bad("pictures", "not finite", "check the weights; use generator.dtype: float32 or bfloat16")
    if low < 0 or high > 1:
        return Finding.bad("pictures", f"values from {low:.3g} to {high:.3g}", "the pipeline's decoder does not clamp")
    if float(images.flatten(1).std(1).max()) < 1e-3:
        return Finding.bad("pictures", "every picture is one plain colour", "check the autoencoder's weights")
    return Finding.good("pictures", f"{tuple(images.shape)} in [{low:.2f}, {high:.2f}]")


def ratio(patient: Patient) -> Finding:
    """A drawn step is as likely in training as it was in sampling: before the first update the ratio is 1."""
    generator, config = patient.generator, patient.config
    if config.generator.steps < 2:
        return Finding.good("ratio", "a single step, nothing is drawn at random")
    learns = isinstance(config.algorithm, PolicyGradient)
    algorithm = config.algorithm if isinstance(config.algorithm, PolicyGradient) else GRPO()
    kernel, steps = algorithm.drawing(generator.path), config.generator.steps
    index = list(range(PICTURES))
    parts = (index, Randomness(config.seed), PICTURES, kernel, range(steps - 1))
    rollout = sample(generator, patient.drawn, *parts, keep=range(steps))
    together, apart = (_ratio_off(generator, rollout, kernel, size) for size in (PICTURES, 1))
    side = "exactly 1" if together == 0 else f"1 but for {together:.1g}"
    said = f"{side} before the first update; 1 but for {apart:.1g} where pictures are learnt one by one"
    if not learns:
        return Finding.good("ratio", f"{said}; {config.algorithm.name} learns from none")
    if not (together <= RATIO_OFF and apart <= RATIO_OFF):
        return Finding.bad(
            "ratio",
            f"likelihood ratios are up to {max(together, apart):.2g} away from 1 before the first update",
            "sampling and training do not compute the same: use generator.dtype: float32, or another attention backend",
        )
    return Finding.good("ratio", said)


@torch.no_grad()
def _ratio_off(generator: Generator, rollout: Rollout, kernel: Kernel, size: int) -> float:
    """Return how far from 1 the furthest ratio is with ``size`` pictures side by side, as a micro-batch may come."""
    off = list[Tensor]()
    for start in range(0, len(rollout.prompts), size):
        part = rollout.select(range(start, start + size))
        for place, step in enumerate(part.drawn[0].tolist()):
            x, x_next = part.x[:, step], part.x[:, step + 1]
            t, t_next = part.times[:, step], part.times[:, step + 1]
            new = kernel(generator.path, generator.predict(part.prompts, x, t), x, t, t_next)
            old = Gaussian(part.means[:, place], part.stds[:, place])
            off.append((new.log_prob(x_next) - old.log_prob(x_next)).exp().sub(1).abs().max())
    return float(torch.stack(off).max())


def gradient(patient: Patient) -> Finding:
    """The loss has a finite gradient that is not 0."""
    found = _gradient(patient, patient.config.algorithm)
    size = float(found.norm())
    if not torch.isfinite(found).all():
        return Finding.bad("gradient", "not finite", "use generator.dtype: float32 or bfloat16")
    if size == 0:
        return Finding.bad(
            "gradient", "0 in every trained weight", "check lora.target_modules, and the reward's gradient"
        )
    return Finding.good("gradient", f"norm {size:.3g} over {found.numel() / 1e6:.3g} M numbers")


def kl(patient: Patient) -> Finding:
    """The pull to the reference has a gradient of its own, once the weights have moved."""
    algorithm: Any = patient.config.algorithm
    fields = {field.name for field in dataclasses.fields(algorithm)}
    if "kl_weight" not in fields or not vars(algorithm)["kl_weight"]:
        return Finding.good("kl", f"{algorithm.name} has none here")
    free = dataclasses.replace(algorithm, kl_weight=0.0)
    with patient.stirred():
        pull = float((_gradient(patient, algorithm) - _gradient(patient, free)).norm())
    if not pull > 0:
        return Finding.bad(
            "kl", "has no gradient, so nothing holds the weights", "report this: it is a mistake of ours"
        )
    return Finding.good("kl", f"gradient of norm {pull:.2g}")


def constant_group(patient: Patient) -> Finding:
    """Pictures that all score the same teach nothing."""
    config = patient.config
    rewards_PK = torch.full((2, config.group_size), 0.7)
    valid_PK = torch.ones_like(rewards_PK).bool()
    if config.advantage == "per_prompt":
        found = PromptStatistics(config.prompt_statistics).advantages(patient.drawn[:2], rewards_PK, valid_PK)
    else:
        found = ADVANTAGES[config.advantage](rewards_PK, valid_PK)
    if bool((found != 0).any()):
        return Finding.bad("constant group", f"gives advantages up to {float(found.abs().max()):.2g}", "report this")
    return Finding.good("constant group", "advantage exactly 0")


def round_trip(patient: Patient) -> Finding:
    """What is saved, plain diffusers loads, and it predicts the same."""
    rollout, generator, config = patient.rollout, patient.generator, patient.config

    def predicted(by: Generator) -> Tensor:
        with torch.no_grad():
            return by.predict(patient.drawn[:1], rollout.x0[:1], rollout.times[:1, 0]).x0

    with tempfile.TemporaryDirectory() as folder, patient.stirred():
        save_trained(generator, config.lora, Path(folder))
        tuned = predicted(generator)
        other = Generator.load(config.generator, generator.device)
        other.remember(patient.drawn[:1])
        base = predicted(other)
        load_trained(other, Path(folder))
        loaded = predicted(other)
    moved, missed = (float((tuned - values).abs().mean()) for values in (base, loaded))
    if not missed <= 0.01 * moved:
        return Finding.bad(
            "saved weights", f"loaded again they change pictures by {missed:.2g} of {moved:.2g}", "report this pipeline"
        )
    return Finding.good(
        "saved weights", f"plain diffusers loads them; same prediction but for {missed:.1g} of {moved:.2g}"
    )


def truncation(patient: Patient) -> Finding:
    """No prompt is longer than every text encoder reads."""
    cut, number = patient.generator.cut, len(set(patient.prompts))
    short = by_all(cut)
    if short:
        seen = f"{len(short)} of {number} are cut by every encoder: {told(cut)}"
        return Finding.bad("prompts", seen, "shorten them, or raise generator.call.max_sequence_length")
    words = f"each of {number} is read whole by some encoder: {told(cut)}" if told(cut) else "all are read whole"
    return Finding.good("prompts", words)


def _gradient(patient: Patient, algorithm: Any) -> Tensor:
    """Return the gradient of ``algorithm``'s loss of the examples, as one vector."""
    patient.policy.optimizer.zero_grad(set_to_none=True)
    parts: tuple[Any, ...] = (patient.generator, patient.policy.snapshots, patient.reward)
    loss: Callable[..., Any] = algorithm.loss
    loss(*parts, patient.examples)[0].mean().backward()
    gradients = [p.grad.flatten() for p in patient.policy.parameters.values() if p.grad is not None]
    patient.policy.optimizer.zero_grad(set_to_none=True)
    return torch.cat(gradients).cpu() if gradients else torch.zeros(1)
