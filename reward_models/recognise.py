"""First lesson of a reward model whose towers are new: which caption belongs to which picture (CLIP, arXiv:2103.00020).

Deviations from the paper: pictures with the same caption are all each other's positives (the cross-entropy is against
the uniform distribution over them), since a small set has few captions; augmentation is a shift by up to a sixteenth
and another exposure.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from rlhf_images.config import Count, Positive
from rlhf_images.data import captioned
from rlhf_images.errors import BadInput, NonFinite
from rlhf_images.progress import progress, say
from rlhf_images.randomness import Randomness

from .architecture import tokens
from .preference import PreferenceModel

HELD_OUT = 0.1
"""Share of the captioned pictures that is kept aside to see how well it went."""


@final
@dataclass(frozen=True)
class RecogniseConfig:
    """The contrastive lesson; skip it where the towers come with weights."""

    data: str = "digits"
    """Captioned pictures: ``digits``, a folder with metadata.jsonl, a parquet file, or a data set of the hub."""
    steps: Count = 250
    """Optimiser steps."""
    batch: Count = 96
    """Pictures a step. More of them are more wrong captions to tell apart."""
    lr: Positive = 2e-3
    """Peak learning rate: a tenth of the steps to warm up, then a cosine down to 0."""
    weight_decay: Positive = 0.05
    """Decoupled weight decay."""


@final
@dataclass(frozen=True)
class Recognised:
    """How the lesson went: pictures, distinct captions, and the share of held-out pictures given their own caption."""

    pictures: int
    captions: int
    held_out_accuracy: float | None


def recognise(model: PreferenceModel, config: RecogniseConfig, seed: int) -> Recognised:
    """Train the towers of ``model`` to match pictures and captions, and say how well they do."""
    found = captioned(config.data, model.preprocessing.size)
    for name, reason in found.set_aside:
        say(f"set aside: {name} ({reason})")
    captions = sorted(set(found.captions))
    if len(captions) < 2:
        raise BadInput(f"{config.data}: every picture has the same caption, so there is nothing to recognise")
    caption = torch.tensor([captions.index(text) for text in found.captions])
    order = torch.tensor(Randomness(seed).permutation("recognise held out", len(caption)))
    kept_aside = int(HELD_OUT * len(caption))
    held_out, train = order[:kept_aside], order[kept_aside:]
    texts = tokens(captions, model.architecture)
    _train(model, found.images[train], caption[train], texts, config, seed)
    model.forget_texts()
    accuracy = _accuracy(model, found.images[held_out], caption[held_out], captions) if kept_aside else None
    return Recognised(len(caption), len(captions), accuracy)


def contrastive_loss(similarity: Tensor, same: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of ``similarity (B, B)`` against ``same (B, B)``, true where captions agree.

    Mean over both directions of -Σ_j q_ij log softmax_j(similarity_ij), with q uniform over the positives of i.
    """
    positives = same.to(similarity.dtype)
    target = positives / positives.sum(1, keepdim=True)
    return -(target * (similarity.log_softmax(1) + similarity.T.log_softmax(1))).sum(1).mean() / 2


def _train(
    model: PreferenceModel, images: Tensor, caption: Tensor, texts: Tensor, config: RecogniseConfig, seed: int
) -> None:
    clip = model.network.clip.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    rising = max(0.1, min(1.5 / config.steps, 0.9))  # of the steps; a rise of one step alone divides by nothing
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps, pct_start=rising)
    for step in progress(range(config.steps), "learning to recognise", config.steps):
        generator = Randomness(seed, step).generator("recognise")
        drawn = torch.randint(len(images), (config.batch,), generator=generator)
        present, position = torch.unique(caption[drawn], return_inverse=True)
        pixels = toned(shifted(images[drawn], generator), generator).to(model.device)
        features = normalize(clip.encode_image(model.preprocessing.normalised(pixels)), dim=-1)
        named = normalize(clip.encode_text(texts[present].to(model.device)), dim=-1)[position.to(model.device)]
        same = (position[:, None] == position[None]).to(model.device)
        loss = contrastive_loss(clip.logit_scale.exp().clamp(max=100) * features @ named.T, same)
        if not torch.isfinite(loss):
            raise NonFinite(f"train-reward: the loss of 'recognise' is {loss.item()} at step {step}; lower its lr")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        schedule.step()
    clip.eval().requires_grad_(False)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``images (B, 3, S, S)`` moved together by up to S / 16 pixels each way, their borders repeated."""
    reach = images.shape[-1] // 16
    size = images.shape[-1]
    down, across = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    return pad(images, (reach,) * 4, mode="replicate")[..., down : down + size, across : across + size]


def toned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``images (B, 3, S, S)`` each darkened or brightened: to the power of 2^u, u uniform in [-1, 1].

    What a caption names should be recognised in any exposure: a tuned generator may leave the captioned pictures'.
    """
    exponent = 2 ** (2 * torch.rand(len(images), generator=generator) - 1)
    return images ** exponent[:, None, None, None]


@torch.no_grad()
def _accuracy(model: PreferenceModel, images: Tensor, caption: Tensor, captions: list[str]) -> float:
    """Return the share of ``images`` whose own caption fits best among those of all of them."""
    present, position = torch.unique(caption, return_inverse=True)
    named = model.texts([captions[number] for number in present.tolist()])
    guesses = []
    for part in torch.split(images, 256):
        pixels = model.preprocessing.normalised(part.to(model.device))
        guesses.append((normalize(model.network.clip.encode_image(pixels), dim=-1) @ named.T).argmax(1).cpu())
    return round(float((torch.cat(guesses) == position).float().mean()), 4)
