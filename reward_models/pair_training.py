"""How whole networks learn from pairs, whatever they are: gradient steps that stop in time, over several runs.

Shared by the families whose networks are fine-tuned: `train_clip` and `train_vision_language`.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rlhf_images.config import Count, Fraction, NonNegative, Positive, Weight
from rlhf_images.randomness import Randomness

from .comparisons import Comparisons, Split

Inputs = Callable[[Tensor], Mapping[str, Any]]
"""What a network takes, of pictures by their numbers ``(2B,)``: the left ones of B pairs, then the right ones."""


@final
@dataclass(frozen=True)
class PairTraining:
    """Gradient steps on pairs: AdamW, a linear warm-up, a cosine decay, and an end as soon as more would not help."""

    steps: Count = 4000
    """At most so many."""
    batch: Count = 128
    """Pairs a step; as many of them, or of all if these are fewer, as whole forward passes take."""
    micro_size: Count = 16
    """Pairs in one forward pass; a step takes several. Changes the result only where it does not divide the step."""
    lr: Positive = 3e-6
    """Peak learning rate of what a network brings with it."""
    warmup: NonNegative = 500
    """Steps until the peak; a tenth of all steps if that is less."""
    weight_decay: Weight = 0.3
    """Decoupled weight decay of matrices; gains, biases and scales are left alone."""
    by_prompt: bool = True
    """Whether every prompt counts the same, however many of the pairs are its."""
    validation: Fraction = 0.15
    """Share of the pairs to learn from that is watched instead: whole groups, so that what is watched is new."""
    every: Count = 50
    """Steps between two looks at them."""
    patience: Count = 5
    """Looks without a better one, after which the run ends. Its best weights count, be they the first."""


@final
@dataclass(frozen=True)
class Ended:
    """How a run went: the step whose weights were kept, and the log-loss on the pairs that were watched."""

    step: int
    nll: float | None
    """In nats a pair; ln 2 = 0.693 is guessing. None where none were watched."""
    before: float | None
    """The same before the first step."""


def weights(data: Comparisons, train: list[int], by_prompt: bool) -> Tensor:
    """Return what every pair weighs ``(P,)``, 1 on average over ``train``; by prompt, each of its prompts the same."""
    weight = data.weight.clone()
    if by_prompt:
        of = [data.prompts[row] for row in data.left.tolist()]
        sums: dict[str, float] = {}
        for pair in train:
            sums[of[pair]] = sums.get(of[pair], 0.0) + float(weight[pair])
        weight = weight / torch.tensor([sums.get(prompt, 1.0) for prompt in of])
    found: Tensor = weight / weight[train].mean()
    return found


def watched(split: Split, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the pairs to learn from and those to watch, about ``share`` of ``split.train``, in whole groups."""
    groups: dict[int, list[int]] = {}
    for pair in split.train:
        groups.setdefault(int(split.group[pair]), []).append(pair)
    members = [groups[group] for group in sorted(groups)]
    watch: list[int] = []
    for place in Randomness(seed).permutation("validation", len(members)):
        if len(watch) + len(members[place]) / 2 <= share * len(split.train):
            watch += members[place]
    kept = set(watch)
    teach = [pair for pair in split.train if pair not in kept]
    return (teach, sorted(watch)) if teach else (list(split.train), [])


def passes(config: PairTraining, pairs: int) -> tuple[int, int]:
    """Return how many of ``pairs`` a forward pass takes, and how many passes a step; none is smaller than the others.

    Where they do not fill the last pass of a step, the step has as many fewer.
    """
    batch = min(config.batch, pairs)
    micro = min(config.micro_size, batch)
    return micro, batch // micro


def learn(
    scorer: Any,
    inputs: Inputs,
    data: Comparisons,
    split: Split,
    config: PairTraining,
    seed: int,
    groups: Iterable[dict[str, Any]],
    lesson: str,
) -> Ended:
    """Fit the open weights of ``scorer`` to the training pairs, leave it with the best ones, and say how it went.

    ``scorer`` takes ``inputs`` to ``.logits (2B, 1)``; ``groups`` are its open weights as an optimiser wants them.
    """
    from transformers.trainer_callback import PrinterCallback

    from . import trl_trainer as trl

    teach, watch = watched(split, config.validation, seed)
    collator = trl.Collator(data, inputs, weights(data, teach, config.by_prompt))
    micro, count = passes(config, len(teach))
    eye = Eye(scorer, lambda: log_loss(scorer, collator, watch, config.micro_size), config) if watch else None
    with tempfile.TemporaryDirectory() as folder, trl.own_accelerate_state():
        trainer = trl.PicturePairs(
            model=scorer,
            args=trl.arguments(
                folder,
                seed=seed,
                batch=micro,
                lr=config.lr,
                max_steps=config.steps,
                warmup_steps=min(config.warmup, config.steps // 10),
                gradient_accumulation_steps=count,
                dataloader_drop_last=True,
            ),
            train_dataset=trl.dummies(teach),
            processing_class=trl.vocabulary(),
            data_collator=collator,
            optimizers=(torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay), None),
            callbacks=[trl.Progress(config.steps, lesson), *([trl.Watching(eye.look)] if eye else [])],
            lesson=lesson,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    scorer.eval()
    if eye is None:
        return Ended(config.steps, None, None)
    eye.restore()
    return Ended(eye.step, round(eye.best, 6), round(eye.first, 6))


@torch.no_grad()
def log_loss(scorer: Any, collator: Any, pairs: list[int], size: int) -> float:
    """Return the mean log-loss of ``scorer`` on ``pairs``, each as it weighs, in nats."""
    learning, device = scorer.training, next(scorer.parameters()).device
    scorer.eval()
    lost = total = 0.0
    for start in range(0, len(pairs), size):
        batch = collator([{"pair": pair} for pair in pairs[start : start + size]])
        target, weight = batch.pop("target"), batch.pop("weight")
        logits = scorer(**_moved(batch, device)).logits
        left, right = logits.float().cpu().squeeze(-1).chunk(2)
        lost += float(binary_cross_entropy_with_logits(left - right, target, weight, reduction="sum"))
        total += float(weight.sum())
    scorer.train(learning)
    return lost / total


def _moved(values: Any, device: torch.device) -> Any:
    """Return tensors, in mappings of mappings, on ``device``."""
    if isinstance(values, Mapping):
        return {name: _moved(value, device) for name, value in values.items()}
    return values.to(device)


@final
class Eye:
    """Watches pairs that are not learnt from, and keeps the weights that were best there."""

    def __init__(self, network: nn.Module, measured: Callable[[], float], config: PairTraining) -> None:
        self.network, self.measured, self.config = network, measured, config
        self.step, self.best, self.first, self.worse = 0, float("inf"), float("inf"), 0
        self.kept: dict[str, Tensor] = {}

    def look(self, step: int) -> bool:
        """Look after ``step`` steps, if it is time; return whether to go on."""
        if step % self.config.every and step < self.config.steps:
            return True
        loss = self.measured()
        if step == 0:
            self.first = loss
        self.worse += 1
        if loss < self.best:
            self.step, self.best, self.worse = step, loss, 0
            self.kept = {name: weight.detach().clone() for name, weight in self._open()}
        return self.worse < self.config.patience

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        for name, weight in self._open():
            weight.copy_(self.kept[name])

    def _open(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, weight) for name, weight in self.network.named_parameters() if weight.requires_grad]


def averaged(module: nn.Module, run: Callable[[int], Ended], runs: int) -> list[Ended]:
    """Leave ``module`` with the mean of the weights that ``run(0)``, ``run(1)`` … lead to, each from the same start.

    Start and sum are kept off the GPU, which needs its memory for learning.
    """
    if runs == 1:
        return [run(0)]
    start = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    ended = []
    for number in range(runs):
        module.load_state_dict(start)
        ended.append(run(number))
        for name, value in module.state_dict().items():
            total[name] += value.cpu()
    module.load_state_dict({name: (total[name] / runs).to(value.dtype) for name, value in start.items()})
    return ended
