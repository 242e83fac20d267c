"""The command line: one stage a command, and the one roof over both packages. A mistake ends in one line.

A command is a module here with `add`, and a name in `parser`. It imports its stage when it is run, not before, so that
``--help`` answers at once.
"""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TypeAlias

from ..errors import BadInput, NotSaved, ProcessLost, Stop
from ..progress import is_main

Stages: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command is added to."""

TOGETHER = ("finetune", "dpo", "evaluate", "doctor", "plan")
"""The stages that several processes may run together; of the others each would do all of it, in the same folder."""
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a disk says that is full or broken."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``rlhf-images STAGE …`` and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def stage(name: str) -> None:
    """Run ``scripts/<stage>.py …``, which is ``rlhf-images <stage> …``."""
    main([name, *sys.argv[1:]])


def run(arguments: Sequence[str]) -> int:
    """Run one stage and return its exit code: 0, or that of `errors.Stop`."""
    options = parser().parse_args(arguments)
    _prepare()
    try:
        if options.stage not in TOGETHER and os.environ.get("WORLD_SIZE", "1") != "1":
            raise BadInput(f"'{options.stage}' is for one process; start it without accelerate launch or torchrun")
        options.run(options)
    except ProcessLost as stop:
        _tell(str(stop), everywhere=True)  # process 0 may be the one that is gone
        return stop.exit_code
    except Stop as stop:
        _tell(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        _tell(str(NotSaved(error)))
        return NotSaved.exit_code
    return 0


def _tell(text: str, everywhere: bool = False) -> None:
    if everywhere or is_main():
        print("rlhf-images:", " ".join(text.split()), file=sys.stderr)  # noqa: T201


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from . import choose, configured, doctor, evaluate, exchange, label, loop, plan, report, score, serve_reward

    top = argparse.ArgumentParser(
        prog="rlhf-images",
        description="Reinforcement learning from human feedback for image generators: the whole loop.",
        epilog="The loop: pretrain (or bring a pipeline) → generate → label → train-reward → finetune → evaluate.",
    )
    stages = top.add_subparsers(title="stages", metavar="STAGE", dest="stage", required=True)
    for command in (configured, label, evaluate, report, exchange, score, serve_reward, plan, doctor, choose, loop):
        command.add(stages)
    return top


def _prepare() -> None:
    """Let threads wait without spinning, and keep the libraries' chatter out of a stage's story; errors stay."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads on a shared machine: 20 times slower, seen
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it tells of every attempt where there is no network
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
