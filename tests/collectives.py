"""What processes tell each other while a run learns: the bytes of every collective, and the gradients they agree on."""

import json
import os
import pickle
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed

from rlhf_images import finetune, tuning
from rlhf_images.efficiency import Efficiency
from rlhf_images.processes import Processes
from rlhf_images.sharding import whole

NAMES = ("all_reduce", "all_gather_object", "all_gather", "broadcast", "reduce", "gather", "all_to_all", "barrier")


def observe(folder: str, rank: int) -> None:
    """Write to ``folder``, on process 0, the collectives of each step, and the gradient of each update as it is taken.

    ``collectives.jsonl`` has a row a step, of [name, bytes that one process gives] each. MKL's products of a matrix
    and a vector otherwise round by where the matrix happens to lie in memory, which two launches do not share.
    """
    os.environ["MKL_CBWR"] = "COMPATIBLE"
    _only_what_is_compared()
    if rank == 0:
        Path(folder).mkdir(parents=True)
    learn, total, step, updates = finetune.learn, Processes.sum_gradients, list[tuple[str, int]](), [0]

    def observed(name: str) -> None:
        collective = getattr(distributed, name)

        @wraps(collective)
        def heard(*args: object, **options: object) -> object:
            step.append((name, _bytes(name, args)))
            return collective(*args, **options)

        setattr(distributed, name, heard)

    @wraps(learn)
    def taken(parts: finetune.Parts, number: int) -> dict[str, float]:
        step.clear()
        metrics = learn(parts, number)
        if rank != 0:
            return metrics
        with Path(folder, "collectives.jsonl").open("a") as file:
            file.write(json.dumps(step) + "\n")
        return metrics

    @wraps(total)
    def summed(self: Processes, parameters: object, value: float) -> float:
        parameters = list(parameters)
        value = total(self, parameters, value)
        gradient = torch.cat([whole(parameter.grad).flatten() for parameter in parameters])
        if rank == 0:
            save_file({"gradient": gradient}, Path(folder, f"update_{updates[0]:03d}.safetensors"))
        updates[0] += 1
        return value

    for name in NAMES:
        observed(name)
    finetune.learn, Processes.sum_gradients = taken, summed


def _only_what_is_compared() -> None:
    """Leave out what most of the time of so short a run goes to: counting its arithmetic, and the page about it."""
    begin = Efficiency.__init__

    def uncounted(self: Efficiency, *arguments: object) -> None:
        begin(self, *arguments)
        self._counted = 0

    Efficiency.__init__, tuning.refresh = uncounted, lambda folder: None


def _bytes(name: str, args: tuple[object, ...]) -> int:
    if name == "all_gather_object":
        return len(pickle.dumps(args[1]))
    return args[0].nbytes if args and isinstance(args[0], torch.Tensor) else 0


def observing(folder: Path) -> Callable[[int], None]:
    """Return what each process of a launch is to call first."""
    return partial(observe, str(folder))
