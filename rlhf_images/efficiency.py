"""What a run made of its device: FLOPs done over what matrix products reach there, and where the time went."""

import time
from collections.abc import Callable
from typing import final

import torch

from .cards import matmul_rate
from .generators import GeneratorConfig
from .meter import Meter

STAGES = ("sampling", "scoring", "learning")


@final
class Efficiency:
    """Looks at the steps of one launch on this process. The arithmetic of one step is counted while it runs.

    That is the second, if there is one: the first also encodes prompts and warms up. Its time is left out, for counting
    takes some, but where there is no other.
    """

    def __init__(self, steps: int, config: GeneratorConfig, device: torch.device) -> None:
        """Begin to look at ``steps`` steps; those of a compiled network run without us and are not counted."""
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        self.device, self.flops = device, 0
        self._counted = 0 if config.compile is not None else min(steps, 2)
        self._begun = time.perf_counter()
        self._taken = 0
        self._spent = dict.fromkeys(STAGES, 0.0)
        """Seconds of each stage, over all steps: nothing here grows with them."""
        self._counting = 0.0
        """Seconds of the step that was counted."""

    def step(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return ``work()``, the metrics of a step, among them the seconds of its stages."""
        self._taken += 1
        if self._taken == self._counted:
            with Meter(real=True) as meter:
                metrics = work()
            self.flops = meter.work.flops
        else:
            metrics = work()
        seconds = {name: metrics.get(f"seconds_{name}", 0.0) for name in STAGES}
        for name, value in seconds.items():
            self._spent[name] += value
        if self._taken == self._counted:
            self._counting = sum(seconds.values())
        return metrics

    def summary(self) -> dict[str, float]:
        """Return FLOP/s reached and possible, their ``fraction``, and each stage's share of the wall time."""
        whole = time.perf_counter() - self._begun
        shares = {f"share_{name}": seconds / whole for name, seconds in self._spent.items()}
        found = {"seconds": whole, **shares, "share_other": 1 - sum(shares.values())}
        if not self.flops:
            return found
        seconds = sum(self._spent.values())
        if self._taken > 1:
            seconds = (seconds - self._counting) / (self._taken - 1)
        reached, possible = self.flops / seconds, matmul_rate(self.device, self.dtype)
        counted = {"flops_per_step": float(self.flops), "seconds_per_step": seconds}
        return {
            **found,
            **counted,
            "flops_per_second": reached,
            "matmul_rate": possible,
            "fraction": reached / possible,
        }


def said(summary: dict[str, float]) -> str:
    """Return ``summary`` as one line."""
    shares = ", ".join(f"{name} {summary[f'share_{name}']:.0%}" for name in (*STAGES, "other"))
    if "fraction" not in summary:
        return f"time: {shares}"
    rates = " of ".join(f"{summary[name] / 1e9:.3g}" for name in ("flops_per_second", "matmul_rate"))
    return f"efficiency: {summary['fraction']:.1%} of this device's matrix products ({rates} GFLOP/s); time: {shares}"
