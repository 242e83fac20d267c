"""The processes of one launch: which slice of the global indices is mine, and what all of them have to agree on.

Gradients are summed explicitly, once an update, so the pipeline keeps its plain denoiser: a distributed wrapper would
hide the attributes that pipelines read, and would tie the number of forwards on one rank to that on another. Where a
denoiser is too large for that, FSDP2 shards it (see `sharding`), and processes run it in step (see `lockstep`).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from .errors import BadInput, NonFinite, NotSaved, ProcessLost, RewardFailed, Stop
from .generators import Generator
from .heartbeat import Heartbeat
from .lockstep import Lockstep
from .sharding import read_options, shard
from .snapshots import Snapshots

READ = {"", "zero_stage", "deepspeed_multinode_launcher", "mixed_precision"}
"""What may stand in accelerate's ``deepspeed_config``, or be added to it by its launcher."""


def _asked(name: str) -> bool:
    """Return whether accelerate's launcher asks for ``name``."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def _zero_stage() -> int:
    """Return the ZeRO stage that accelerate's config asks for; refuse what it asks for and is not done."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2"):
        raise BadInput(
            f"deepspeed_config: zero_stage {stage} is not supported; set 1 or 2, or launch with"
            " configs/accelerate/fsdp2.yaml, which shards the weights too"
        )
    fields = set(os.environ.get("ACCELERATE_CONFIG_DS_FIELDS", "").split(",")) - READ
    if fields:
        raise BadInput(f"deepspeed_config: {', '.join(sorted(fields))}: not read here; leave it out")
    return int(stage)


@final
class Processes:
    """Rank and number of the processes that `accelerate launch` started, and their collectives."""

    def __init__(self) -> None:
        stage = _zero_stage() if _asked("DEEPSPEED") else 0
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # by which accelerate would bring a loop of its own
        if _asked("FSDP"):  # by which transformers and diffusers would load weights on the first process only
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        self.accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
        self.zero_stage = stage if self.count > 1 else 0
        """Of DeepSpeed's ZeRO, which is in `partition`; 0 without."""
        self._launched = "ACCELERATE_MIXED_PRECISION" in os.environ
        self._parent = os.getppid()
        self._sharding = read_options() if _asked("FSDP") else None
        self._lockstep: Lockstep | None = None
        if self._sharding and self.count > 1:
            self._pace: Any = distributed.new_group(backend="gloo")

    @property
    def device(self) -> torch.device:
        """Return this process's device."""
        return torch.device(self.accelerator.device)

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0."""
        return bool(self.accelerator.is_main_process)

    @property
    def rank(self) -> int:
        """Return this process's number."""
        return int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        """Return the number of processes."""
        return int(self.accelerator.num_processes)

    def shard(self, generator: Generator, prompt: str) -> None:
        """Keep this process's part of the denoiser only, where accelerate's config asks for FSDP.

        From then on it runs only where all processes run it: see `walk_in_step`. ``prompt`` is one that it knows.
        """
        if self._sharding and self.count > 1:
            generator.settle(prompt)
            self._inputs = generator.inputs(prompt)
            shard(generator.denoiser, self._sharding, self.device, self.count)

    def walk_in_step(self, generator: Generator, snapshots: Snapshots) -> None:
        """Let processes with unequal work run a sharded denoiser together, until the end of the launch."""
        if self._sharding and self.count > 1:
            self._lockstep = Lockstep(generator.denoiser, snapshots, self._inputs, self._largest)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradient of ``loss``."""
        if self._lockstep:
            self._lockstep.backward(loss)
        else:
            loss.backward()

    def mine(self, total: int) -> range:
        """Return this process's contiguous slice of ``range(total)``; sizes differ by one at the most."""
        rank, count = self.rank, self.count
        return range(total * rank // count, total * (rank + 1) // count)

    def shared(self, values: Tensor, rows: Iterable[int], total: int) -> Tensor:
        """Return ``(total, …)`` on every process: row ``rows[i]`` is ``values[i]`` of the process that has it.

        A sum with zeros, so the numbers arrive exactly as they are, whatever the sizes of the slices. On the CPU.
        """
        rows = list(rows)
        whole = torch.zeros(total, *values.shape[1:], dtype=values.dtype, device=self.device)
        whole[torch.tensor(rows, dtype=torch.long, device=self.device)] = values.detach().to(self.device)
        return self._summed(whole).cpu()

    def sum_gradients(self, parameters: Iterable[nn.Parameter], value: float) -> float:
        """Replace each gradient by its sum over the processes (a missing one is zero), and return the sum of ``value``.

        One collective of all gradients and the value. Those of sharded weights are sums already.
        """
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count == 1:
            return value
        copies = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        parts = [parameter.grad.flatten() for parameter in copies if parameter.grad is not None]
        flat = self._summed(torch.cat([*parts, torch.tensor([value], device=self.device)]))
        for parameter, part in zip(copies, flat[:-1].split([p.numel() for p in copies]), strict=True):
            parameter.grad = part.view_as(parameter)
        return float(flat[-1])

    def names(self, mine: Iterable[str]) -> list[str]:
        """Return the names that any process gives, sorted, the same on all."""
        with self.together():
            return sorted(set(gather_object(list(mine)) if self.count > 1 else mine))

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Return the sum of each value over the processes; a name that a process does not give counts as 0 there."""
        names = self.names(values)
        mine = torch.tensor([values.get(name, 0.0) for name in names], dtype=torch.float64)
        if self.count > 1:  # float64 does not exist on every device; these are a few numbers
            mine = self.shared(mine.float()[None], [self.rank], self.count).double().sum(0)
        return dict(zip(names, mine.tolist(), strict=True))

    def total(self, value: float) -> float:
        """Return the sum of ``value`` over the processes."""
        return float(self._summed(torch.tensor([value], device=self.device)))

    def largest(self, value: float) -> float:
        """Return the largest ``value`` of all processes."""
        return float(self.shared(torch.tensor([value]), [self.rank], self.count).max())

    def any(self, condition: bool) -> bool:
        """Return whether ``condition`` holds on any process."""
        return bool(self.shared(torch.tensor([float(condition)]), [self.rank], self.count).any())

    def written(self, write: Callable[[], object]) -> None:
        """Let the main process ``write``; where its disk refuses, stop on every process with `NotSaved`."""
        refusal: object = None
        if self.is_main:
            try:
                write()
            except OSError as error:
                refusal = error
        if self.any(refusal is not None):
            raise NotSaved(refusal or "the main process cannot write to its disk")

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Let what stops one process within its ``with``, where no process waits for another, stop them all."""
        reason: Stop | None = None
        try:
            yield
        except Stop as stop:
            reason = stop
        if not self.any(reason is not None):
            return
        with self.together():
            mine = (reason.exit_code, f"process {self.rank}: {reason}") if reason else None
            told = gather_object([mine]) if self.count > 1 else []
        if reason:
            raise reason
        code, text = next(stop for stop in told if stop)
        raise {kind.exit_code: kind for kind in (BadInput, NonFinite, RewardFailed)}.get(code, Stop)(text)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Meet the other processes, wherever they still have to run the denoiser, for a collective within ``with``."""
        if self._lockstep:
            self._lockstep.wait()
        with self._all_there():
            yield

    def wait(self) -> None:
        """Wait for all processes."""
        with self.together():
            self.accelerator.wait_for_everyone()

    def watched(self) -> Heartbeat:
        """Return a ``with`` in which all processes leave within seconds of one that died or was stopped."""
        return Heartbeat(self.rank, self.count, lambda: self.orphaned)

    @property
    def orphaned(self) -> bool:
        """Return whether accelerate's launcher is gone: a signal that only it received would leave us running."""
        return self._launched and os.getppid() != self._parent

    def _summed(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes."""
        if self.count == 1:
            return values
        with self.together():
            return torch.as_tensor(self.accelerator.reduce(values, "sum"))

    def _largest(self, number: int) -> int:
        said = torch.tensor([number])
        with self._all_there():
            distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self._pace)
        return int(said)

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        """Within its ``with``, a collective that fails because somebody is gone says so."""
        try:
            yield
        except RuntimeError as error:
            reason = re.sub(r"^\[\S*\] ", "", str(error).partition("\n")[0])  # without the file of the library
            raise ProcessLost.gone(reason.partition(". ")[0]) from error
