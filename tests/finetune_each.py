"""Runs fine-tuning configs on several numbers of processes, forked of one interpreter: what is slow is imported once.

The file that is named holds ``{"1": [config, …], "4": [config, …]}``. Beside each run's metrics the bytes of every
collective of its steps are written, by process 0, to ``collectives.json``.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
from torch import distributed

from reward_models import load
from rlhf_images import finetune as loop
from rlhf_images.config import build
from rlhf_images.finetune_config import FinetuneConfig


class Observed:
    """The collectives of each step, as (name, bytes)."""

    def __init__(self):
        self.steps, self.inside = [], False
        for name in ("all_reduce", "all_gather_object", "all_gather", "broadcast", "reduce", "gather", "barrier"):
            setattr(distributed, name, self.observing(name, getattr(distributed, name)))
        loop.learn = self.step(loop.learn)

    def observing(self, name, collective):
        def observed(*args, **kwargs):
            if self.inside:
                self.steps[-1].append((name, args[0].nbytes if args and isinstance(args[0], torch.Tensor) else 0))
            return collective(*args, **kwargs)

        return observed

    def step(self, learn):
        def observed(*args):
            self.steps.append([])
            self.inside = True
            try:
                return learn(*args)
            finally:
                self.inside = False

        return observed


def work(values):
    observed = Observed()
    loop.finetune(build(FinetuneConfig, values, "each"), load)
    if os.environ.get("RANK", "0") == "0":
        Path(values["out"], "collectives.json").write_text(json.dumps(observed.steps))


def forked(rank, count, port, values):
    """The child's id; it has the environment that a launcher would give it, with a store of our own for its port."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if count > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
            os.environ.update(
                {name: str(value) for name, value in {**place, **meeting, "ACCELERATE_USE_CPU": True}.items()}
            )
        work(values)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for count, configs in json.loads(Path(sys.argv[1]).read_text()).items():
        for values in configs:
            store = distributed.TCPStore("127.0.0.1", 0, int(count), is_master=True, wait_for_workers=False)
            children = [forked(rank, int(count), store.port, values) for rank in range(int(count))]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            if any(codes):
                sys.exit(f"{count} processes ended with {codes}")
