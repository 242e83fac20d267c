"""Real launches of the command line, one or more processes each, that start in milliseconds.

They are forked from one process that has imported everything and runs one thread. What is killed is a process of the
operating system, with no ``finally`` of ours to tidy up.
"""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from torch.distributed import TCPStore

ROOT = Path(__file__).parents[1]
PRELOADED = [
    "rlhf_images.cli",
    "rlhf_images.dpo",
    "rlhf_images.finetune",
    "rlhf_images.evaluate",
    "rlhf_images.labelling.server",
    "reward_models",
    "reward_models.pixels",
    "reward_models.combine",
    "rewards_for_tests",
    "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
    "diffusers.models.transformers.transformer_sd3",
    "diffusers.models.autoencoders.autoencoder_kl",
    "torch.distributed.nn.functional",
    "torch._dynamo",
]
"""One list for all tests: a process has one server to fork from, and it starts with the list that it heard last."""
context = get_context("forkserver")
context.set_forkserver_preload(PRELOADED)
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


def warm() -> None:
    """Wait until the process that others are forked from has imported everything."""
    process = context.Process(target=time.sleep, args=(0,))
    process.start()
    process.join()


class Launch:
    """``rlhf-images STAGE FILE`` in ``count`` processes, started as a launcher does: it holds the store of all."""

    def __init__(self, stage: str, file: Path, count: int = 1, before=None) -> None:
        """Start; each process first calls ``before(rank)``, which must be a function that can be found by its name."""
        self.log = file.with_suffix(".log")
        self.log.write_bytes(b"")
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if count > 1 else None
        port = self.store.port if self.store else 0
        arguments = [(stage, str(file), rank, count, port, str(self.log), before) for rank in range(count)]
        self.processes = [context.Process(target=_rank, args=part) for part in arguments]
        for process in self.processes:
            process.start()

    def send(self, rank: int, number: int) -> None:
        """Send a signal to one of the processes, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.processes[rank].pid, number)

    def codes(self, timeout: float = 300) -> list[int]:
        """Wait for the end of all and return their exit codes; what a signal ended has its number below 0."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        running = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        for rank in running:
            self.send(rank, signal.SIGKILL)
            self.processes[rank].join()
        assert not running, f"processes {running} still run after {timeout} s:\n{self.said}"
        return [process.exitcode for process in self.processes]

    @property
    def said(self) -> str:
        """Return what they have written to stdout and stderr so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def launched(stage: str, values: dict, count: int = 1, before=None) -> Launch:
    """Start a stage with the config ``values``, written beside its ``out``."""
    file = Path(values["out"] + ".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    return Launch(stage, file, count, before)


def kill_at(operation: int, rank: int) -> None:
    """Kill this process, if it is the first, when it asks the disk for the ``operation``-th time."""
    if rank == 0:
        _asked(operation, lambda: os.kill(os.getpid(), signal.SIGKILL))


FULL = "(the test's disk is full)\n"


def full_at(operation: int, rank: int) -> None:
    """Let the disk of this process, if it is the first, be full when it is asked for the ``operation``-th time."""

    def refuse() -> None:
        os.write(2, FULL.encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if rank == 0:
        _asked(operation, refuse)


def _asked(operation: int, strike: Callable[[], None]) -> None:
    left = [operation]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def asked(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                strike()
            return real(*arguments, **options)

        return asked

    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def _rank(stage: str, file: str, rank: int, count: int, port: int, log: str, before) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    if count > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
    if before:
        before(rank)
    from rlhf_images.cli import run

    code = run([stage, file])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
