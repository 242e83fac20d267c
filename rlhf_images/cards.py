"""What accelerators can do: their makers' public figures, and this machine's, measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import psutil
import torch

GB = 10**9
ATTAINED = 0.8
"""Share of the makers' peak that large matrix products reach: 790 of 989 TFLOP/s on an H200."""
LAUNCH = 6e-6
"""Seconds between two operations that torch starts one by one on an accelerator."""
COPY = 64 * 2**20
"""Bytes that are copied to measure memory: more than a cache holds."""


@final
@dataclass(frozen=True)
class Card:
    """One accelerator. FLOP/s of dense matrix products, without sparsity; bytes; bytes/s."""

    name: str
    half: float
    """In bfloat16 or float16."""
    single: float
    """In float32, as torch computes it: without TF32."""
    memory: float
    bandwidth: float
    link: float
    """To its neighbours in one machine, in each direction."""
    launch: float = LAUNCH
    """Seconds that one operation takes at least."""
    measured: bool = False
    cpu: bool = False
    """Whether it is no card at all, so that convolutions copy what they are given."""

    def rate(self, dtype: torch.dtype) -> float:
        """Return the FLOP/s that matrix products of ``dtype`` can be expected to reach."""
        peak = self.half if dtype in (torch.bfloat16, torch.float16) else self.single
        return peak if self.measured else ATTAINED * peak


def _card(name: str, half: float, single: float, memory: float, bandwidth: float, link: float) -> Card:
    return Card(name, half * 1e12, single * 1e12, memory * GB, bandwidth * 1e12, link * GB)


CARDS = {
    card.name: card
    for card in (
        _card("b200", 2250, 75, 180, 8.0, 900),
        _card("h200", 989, 67, 141, 4.8, 450),
        _card("h100", 989, 67, 80, 3.35, 450),
        _card("a100", 312, 19.5, 80, 2.04, 300),
        _card("a100-40gb", 312, 19.5, 40, 1.56, 300),
        _card("mi300x", 1307, 163, 192, 5.3, 448),
        _card("l40s", 362, 91.6, 48, 0.864, 32),
        _card("l4", 121, 30.3, 24, 0.3, 32),
        _card("rtx5090", 210, 105, 32, 1.79, 64),
        _card("rtx4090", 165, 82.6, 24, 1.01, 32),
        _card("rtx3090", 71, 35.6, 24, 0.936, 32),
    )
}
"""TFLOP/s, GB and TB/s of the makers' data sheets (SXM forms of the data-centre cards)."""
BETWEEN_MACHINES = 50 * GB
"""Bytes/s of one card to another machine: a 400 Gb/s adapter a card, as such clusters are built."""
DISK = 1 * GB
"""Bytes/s that a checkpoint is written at."""


def this_machine(device: torch.device) -> Card:
    """Return the device of this process, measured: its matrix products, memory and copies."""
    cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if cuda else psutil.virtual_memory().total
    name = torch.cuda.get_device_name(device) if cuda else f"this CPU, {torch.get_num_threads()} threads"
    return Card(
        name,
        half=matmul_rate(device, torch.bfloat16),
        single=matmul_rate(device, torch.float32),
        memory=memory,
        bandwidth=copy_rate(device),
        link=10 * GB,
        launch=operation_seconds(device),
        measured=True,
        cpu=not cuda,
    )


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product on ``device``: the fastest of several."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: left @ right, device)


def copy_rate(device: torch.device) -> float:
    """Return the bytes/s, read and written, of a copy on ``device``."""
    source, target = (torch.ones(COPY, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * COPY / _fastest(lambda: target.copy_(source), device)


def operation_seconds(device: torch.device) -> float:
    """Return the seconds of an operation on next to nothing, one of many in a row."""
    number = torch.ones(1, device=device)

    def run() -> None:
        for _ in range(100):
            number.add_(1)

    return _fastest(run, device) / 100


def _fastest(run: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """Return the seconds of the fastest run: others on the machine can only slow it down."""
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - begun)
    return min(spent)
