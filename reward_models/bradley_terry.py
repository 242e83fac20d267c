"""Second lesson: which of two pictures people prefer (Bradley & Terry 1952).

P(left is preferred) = σ(score(left) - score(right)). The loss takes soft labels: three votes to one, or a tie, are 0.75
and 0.5. A ridge pulls the head to what the towers say alone, as a Gaussian prior of standard deviation 1/√ridge does.
"""

import tempfile
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rlhf_images.config import Count, Positive, Weight
from rlhf_images.progress import progress

from .comparisons import Comparisons, in_unit, mean_one
from .preference import PreferenceModel


@final
@dataclass(frozen=True)
class BradleyTerryConfig:
    """The lesson from votes."""

    epochs: Count = 60
    """Passes over the pairs."""
    batch: Count = 64
    """Pairs a step."""
    lr: Positive = 0.05
    """Peak learning rate of the head."""
    ridge: Weight = 4.0
    """Strength of the prior on the head, in pairs: more is more cautious. With few or noisy votes raise it."""
    tower_lr: Weight = 0.0
    """Peak learning rate of the image tower; 0 leaves it as it is, which a few hundred pairs are better with."""
    weight_decay: Weight = 0.05
    """Decoupled weight decay of the image tower."""


def learn(
    model: PreferenceModel, data: Comparisons, pictures: Tensor, train: list[int], config: BradleyTerryConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """Fit the head of ``model``, and its image tower if asked, to the pairs ``train`` of ``data`` by TRL's trainer.

    ``pictures (N, 3, S, S)`` are those of ``data`` in bytes, at the size that the towers see. Returns the score of each
    of them ``(N,)`` and the evidence for it ``(N, D)``.
    """
    from transformers.trainer_callback import PrinterCallback

    from . import trl_trainer as trl

    network = model.network
    texts = model.texts(data.prompts).cpu()
    shown = data.shown(train)
    parts = progress(shown.split(64), "measuring what is seen")
    network.standardise((in_unit(pictures[part]).to(model.device) for part in parts), texts[shown])
    network.head.requires_grad_(True)
    groups = [{"params": [network.head], "lr": config.lr, "weight_decay": 0.0}]
    frozen = None if config.tower_lr else evidence(model, data, pictures)
    if frozen is None:
        tower = list(network.clip.visual.requires_grad_(True).parameters())
        groups.append({"params": tower, "lr": config.tower_lr, "weight_decay": config.weight_decay})

    def inputs(rows: Tensor) -> dict[str, Tensor]:
        if frozen is not None:
            return {"evidence": frozen[rows]}
        return {"pixels": in_unit(pictures[rows]), "texts": texts[rows]}

    batch, strength = min(config.batch, len(train)), config.ridge / data.weight[train].sum().item()
    with tempfile.TemporaryDirectory() as folder, trl.own_accelerate_state():
        trainer = trl.PicturePairs(
            model=trl.Scorer(network, network.looking if frozen is None else network.forward),
            args=trl.arguments(
                folder, seed=seed, batch=batch, lr=config.lr, num_train_epochs=config.epochs, warmup_steps=0.1
            ),
            train_dataset=trl.dummies(train),
            processing_class=trl.vocabulary(),
            data_collator=trl.Collator(data, inputs, mean_one(data, train)),
            optimizers=(torch.optim.AdamW(groups, fused=True), None),
            callbacks=[trl.Progress(config.epochs * -(-len(train) // batch))],
            lesson="bradley_terry",
            penalty=lambda scorer: strength / 2 * (scorer.network.head - scorer.network.prior).square().sum(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    network.eval().requires_grad_(False)
    seen = evidence(model, data, pictures) if frozen is None else frozen
    with torch.no_grad():
        network.bias.sub_(network(seen.to(model.device))[shown].mean())
        return network(seen.to(model.device)).cpu(), seen


@torch.no_grad()
def evidence(model: PreferenceModel, data: Comparisons, pictures: Tensor) -> Tensor:
    """Return what speaks for every picture of ``data`` ``(N, D)``; ``pictures (N, 3, S, S)`` are in bytes."""
    texts = model.texts(data.prompts)
    parts = progress(list(zip(pictures.split(64), texts.split(64), strict=True)), "looking at pictures")
    return torch.cat([model.network.evidence(in_unit(part).to(model.device), text).cpu() for part, text in parts])
