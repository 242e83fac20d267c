"""What the guards against non-finite numbers cost: CPU time of a step with them and without, taken in turns.

    python benchmarks/guards.py [--pairs 40]

The tiny SD3 of the demo at its own sizes, NFT with LoRA, 8 prompts of 8 pictures a step. Without: `torch.isfinite`
says yes at once, and nobody looks at the weights. Loading is timed apart, in turns as well.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from reward_models import load
from rlhf_images.config import build
from rlhf_images.finetune import Parts, _assembled
from rlhf_images.finetune_config import FIELDS, FinetuneConfig
from rlhf_images.generators import Generator, loading, tiny
from rlhf_images.policy import Policy
from rlhf_images.processes import Processes
from rlhf_images.runs import Run
from rlhf_images.tuning import resumed

PROMPTS = [f"a handwritten {word}" for word in ["zero", "one", "two", "three", "four", "five", "six", "seven"]]


@contextmanager
def unguarded() -> Iterator[None]:
    """Within its ``with``, nothing looks for a number that is not finite."""

    def yes(values: torch.Tensor) -> torch.Tensor:
        return torch.ones((), dtype=torch.bool).expand(values.shape)

    with (
        mock.patch.object(torch, "isfinite", yes),
        mock.patch.object(Policy, "check", return_value=None),
        mock.patch.object(loading, "_refuse_non_finite", return_value=None),
    ):
        yield


def started(folder: Path) -> Parts:
    """Return a run at its beginning."""
    tiny.build(tiny.TinyConfig(), 16, PROMPTS, 0).save_pretrained(folder / "generator")
    values = {
        "generator": {"path": str(folder / "generator"), "steps": 8, "call": {"max_sequence_length": 12}},
        "prompts": PROMPTS,
        "reward": "brightness",
        "out": str(folder / "run"),
        "prompts_per_step": 8,
        "group_size": 8,
        "micro_size": 64,
        "evaluation": {"prompts": PROMPTS[:1], "seeds_per_prompt": 2},
    }
    config, processes = build(FinetuneConfig, values, "benchmark"), Processes()
    parts = _assembled(config, load, processes, Run("finetune", config, config.out, fields=FIELDS))
    resumed(parts)
    return parts


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of ``work``."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compared(work: Callable[[int], object], pairs: int) -> tuple[float, float, float]:
    """Return the median CPU time without guards, the median ratio of with to without, and its interquartile range."""
    plain, ratios = [], []
    for pair in range(pairs):
        first_guarded = pair % 2 == 0
        taken = {}
        for guarded in (first_guarded, not first_guarded):
            if guarded:
                taken[True] = seconds(partial(work, 2 * pair))
            else:
                with unguarded():
                    taken[False] = seconds(partial(work, 2 * pair + 1))
        plain.append(taken[False])
        ratios.append(taken[True] / taken[False])
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(plain), statistics.median(ratios), high - low


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        parts = started(Path(folder))
        config = parts.config.generator
        for step in range(4):
            parts.learn(10_000 + step)
        step, ratio, spread = compared(parts.learn, pairs)
        print(f"a step:  {step * 1000:7.1f} ms of CPU without guards; with them × {ratio:.4f} (IQR {spread:.4f})")
        step, ratio, spread = compared(lambda _: Generator.load(config), pairs)
        print(f"loading: {step * 1000:7.1f} ms of CPU without guards; with them × {ratio:.4f} (IQR {spread:.4f})")


if __name__ == "__main__":
    main()
