"""What a reward server's faults cost: every kind of fault in 5 of 100 questions, against none.

python benchmarks/remote_reward.py [pictures] prints a line a run. The server is scripted and takes 20 ms a picture, one
question at a time, in steps of 256; each of twelve faults comes in its turn, at random places. The client is as it
comes: 60 s for an answer, four attempts. Every score is compared with the truth.
"""

import itertools
import random
import sys
import time
from pathlib import Path

import torch

sys.path += [str(Path(__file__).parents[1] / "tests")]

from reward_server_for_tests import reward_server

from reward_models.remote import Remote
from rlhf_images.progress import progress
from rlhf_images.reward import scores_of

FAULTS = ["refuse", "hang", "slow", "500", "truncated", "too few", "wrong ids", "type: nan", "out of order", "huge"]
FAULTS += ["redirect", "type: text"]
STEP = 256
"""Pictures that are scored together, as in one step of a run."""


def measured(share: float, images: torch.Tensor) -> tuple[float, str]:
    """Return pictures a second and a line about it."""
    draw = random.Random(7)
    kinds = itertools.cycle(draw.sample(FAULTS, len(FAULTS)))
    plan = [next(kinds) if draw.random() < share else "right" for _ in range(10 * len(images))]
    with reward_server(plan.__getitem__, seconds=0.02) as (address, script):
        remote = Remote.load(address)
        begun = time.perf_counter()
        parts = [scores_of(remote, part, ["x"] * len(part), 8) for part in images.split(STEP)]
        seconds = time.perf_counter() - begun
    mean, valid = (torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "valid"))
    wrong = int((mean - images.mean((1, 2, 3)))[valid].abs().gt(1e-5).sum())
    zeros = int(mean[~valid].isfinite().sum())
    faults = [name for name in plan[: script.asked] if name != "right"]
    rate = len(images) / seconds
    return rate, (
        f"{share:4.0%} faults planned: {rate:5.1f} pictures/s; {len(faults)} faults of {len(set(faults))} kinds in"
        f" {script.asked} questions; {wrong} wrong scores, {int((~valid).sum())} pictures"
        f" without one, {zeros} of them with a number"
    )


def main() -> None:
    """Measure both in turn, twice, and compare the sums."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (255 * noise * torch.linspace(0.2, 1, count)[:, None, None, None]).round() / 255
    rates: dict[float, list[float]] = {0.0: [], 0.05: []}
    for share in progress([0.0, 0.05] * 2, "runs"):
        rate, line = measured(share, images)
        rates[share].append(rate)
        print(line)
    usual, faulty = (sum(found) for found in rates.values())
    print(f"throughput kept at 5 % faults: {faulty / usual:.1%}")


if __name__ == "__main__":
    main()
