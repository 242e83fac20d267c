"""The policy: a generator with its trainable weights, their snapshots, and the optimiser that moves them."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from .algorithms import Examples, Objective
from .checkpoint import load_checkpoint, prefixed, under
from .config import Fraction, Positive, Weight
from .descent import Descent, Replicated
from .errors import BadInput, NonFinite
from .generators import Generator
from .partition import Partitioned
from .processes import Processes
from .reward import Reward
from .sharding import gathered, like, local, whole
from .snapshots import Snapshots

LOSS_SCALES = (2.0**16, 2.0**10, 2.0**4, 1.0)
"""By what the loss is multiplied while gradients pass a network in float16, whose smallest number is 6e-8, and by what
they are divided again; each is tried if the one before was too much."""


@final
@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW."""

    lr: Positive = 3e-4
    """Constant learning rate; 3e-4 is usual for LoRA, 1e-5 for full weights of a large model."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the moments."""
    weight_decay: Weight = 1e-4
    """Decoupled."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""


@final
class Policy:
    """What one run trains."""

    def __init__(
        self, generator: Generator, names: tuple[str, ...], config: OptimizerConfig, processes: Processes
    ) -> None:
        """Take the snapshots ``names`` of the generator's trainable weights as they are now."""
        self.generator, self.config, self.processes = generator, config, processes
        self.parameters = generator.parameters
        self.snapshots = Snapshots(self.parameters)
        for name in names:
            self.snapshots.take(name)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.descent = self._descent()

    def _descent(self) -> Descent:
        if not self.processes.zero_stage:
            return Replicated(self.parameters, self.optimizer, self.processes)
        return Partitioned(self.parameters, self.optimizer, self.processes, self.processes.zero_stage)

    def update(
        self,
        algorithm: Objective,
        reward: Reward,
        examples: Examples,
        total: int,
        micro_size: int,
        sums: dict[str, float],
    ) -> float:
        """Take one optimiser step on the mean loss of ``total`` examples, of which this process has ``examples``.

        Adds this process's sums of the loss and its metrics to ``sums``, and returns how far the furthest of its
        likelihood ratios (the metric ``ratio``) was from 1 before the step, 0 where there is none. Raises `NonFinite`
        on every process, with the weights untouched, if the loss or a gradient is not finite on any.
        """
        micros = list(examples.split(micro_size))
        for scale in LOSS_SCALES if self.generator.config.dtype == "float16" else (1.0,):
            told, off = self._backward(algorithm, reward, micros, scale / total)
            loss = self.descent.total(told.get("loss", 0.0), scale) / total
            norm = self.descent.clipped(self.config.max_grad_norm)
            if math.isfinite(norm) or not math.isfinite(loss):
                break
        if not math.isfinite(loss) or not math.isfinite(norm):
            told_by = f"loss {loss:g}, gradient norm {norm:g}; the update was refused"
            raise NonFinite(f"{told_by}; try a smaller optimizer.lr, or generator.dtype: float32")
        self.descent.step()
        for name, value in {**told, "grad_norm": norm * len(examples)}.items():
            sums[name] = sums.get(name, 0.0) + value
        return off

    def check(self) -> None:
        """Refuse weights that an update has made infinite: before they are sampled from, averaged or saved."""
        weights = [parameter.detach() for parameter in self.parameters.values()]
        norm = float(whole(torch.nn.utils.get_total_norm(weights)))
        if not math.isfinite(norm):
            raise NonFinite(f"norm of the weights {norm:g} after the update; the step was refused; try a smaller lr")

    def _backward(
        self, algorithm: Objective, reward: Reward, micros: Sequence[Examples], factor: float
    ) -> tuple[dict[str, float], float]:
        """Leave the gradient of ``factor`` times the sum of all losses; return the sums of ``loss`` and metrics.

        And how far the furthest ratio is from 1.
        """
        self.descent.begin(len(micros))
        sums, off = dict[str, float](), 0.0
        for micro in micros:
            losses, metrics = algorithm.loss(self.generator, self.snapshots, reward, micro)
            self.descent.add(losses.sum() * factor)
            for name, values in {**metrics, "loss": losses.detach()}.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            if "ratio" in metrics:
                off = max(off, float((metrics["ratio"] - 1).abs().max()))
        return sums, off

    @property
    def averaged(self) -> bool:
        """Return whether an average of the weights is kept."""
        return "average" in self.snapshots.copies

    def average(self, decay: float) -> None:
        """Let the average, if one is kept, follow the weights."""
        if self.averaged:
            self.snapshots.move("average", decay)

    def kept(self) -> AbstractContextManager[None]:
        """Return a ``with`` in which the generator has the weights to evaluate and save: the average, if kept."""
        return self.snapshots.use("average") if self.averaged else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint keeps, whole, on the main process. All have to ask; the others get nothing."""
        tensors: dict[str, Tensor] = prefixed("weights", self.parameters)
        for name, copy in self.snapshots.copies.items():
            tensors |= prefixed(f"snapshot {name}", copy)
        tensors |= prefixed("optimizer", self.descent.tensors())
        return gathered(tensors, keep=self.processes.is_main)

    @torch.no_grad()
    def restore(self, folder: Path) -> dict[str, Any]:
        """Put back the newest whole checkpoint and return the state it was saved with; only ``step`` 0 without one."""
        found = load_checkpoint(folder)
        if found is None:
            return {"step": 0}
        tensors, state = found
        weights = under("weights", tensors)
        if weights.keys() != self.parameters.keys():
            raise BadInput(f"{folder}: a checkpoint of other weights than this config trains; choose another 'out'")
        for name, parameter in self.parameters.items():
            local(parameter).copy_(local(like(weights[name], parameter)))
        for name, copy in self.snapshots.copies.items():
            for key, value in under(f"snapshot {name}", tensors).items():
                local(copy[key]).copy_(local(like(value, copy[key])))
        self.descent.restore(under("optimizer", tensors))
        return state
