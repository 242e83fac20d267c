"""Stage `loop`: rounds of generate → label → train-reward → finetune → evaluate, each from what the one before taught.

Every step is a command that a person could have typed, printed before it runs, in a process of its own. Those that
ended well are noted in ``loop.json``; the same loop command continues with the first that did not.

<out>/round_2/
  pool/      pictures by the generator of round 1, in pairs
  pairs/     those of them that are worth asking about: the votes of this round
  votes/     the same for other tools, and what the next rounds learn from as well
  all/       the votes of all rounds so far
  reward/    learnt from them
  tuned/     the base, tuned against that reward
  report.html, summary.json     tuned against base
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, final

from .changes import Fields
from .config import Count, Fraction
from .errors import BadInput, Interrupted, Stop
from .files import write_json
from .preferences import Pairs
from .progress import say
from .report.rounds import write_rounds
from .runs import Run

Stage = str | tuple[str, ...]
"""A config, or a config and changes to it: ``[digits/generate.yaml, pairs_per_prompt=8]``."""
GLANCE = 2.0
"""Seconds between two looks at how many votes a person has given."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a loop, and the step that it is in."""


@final
@dataclass(frozen=True)
class LoopConfig:
    """What each round does. The configs are those of the stages; the loop gives their folders and seeds."""

    generate: Stage
    """Draws the pool of each round: the first from the base, the others from the generator of the round before."""
    reward: Stage
    """Learns from the votes of all rounds so far."""
    finetune: Stage
    """Tunes the base against the reward of the round, so that its distance to the base stays what it says."""
    out: str
    """Folder of the loop."""
    rounds: Count = 2
    """How often."""
    votes: Count | None = None
    """Pairs that are asked about in a round; null is the whole pool."""
    scripted: str | None = None
    """A reward that votes: a name, folder or module:attribute. null opens the page, and waits for the person."""
    noise: Fraction = 0.0
    """Probability of the script's opposite answer."""
    launch: tuple[str, ...] = ()
    """Options of ``accelerate launch`` for the tuning, such as ``--config_file configs/accelerate/ddp.yaml``."""


FIELDS = Fields(
    frozen="generate reward finetune votes scripted noise",
    tracked="rounds",
    free="out launch",
)
"""What may change when a loop continues."""


@final
@dataclass(frozen=True)
class Step:
    """One command of the loop; ``name`` tells it from all others of the loop."""

    name: str
    command: tuple[str, ...]
    finetunes: bool = False
    """Whether it is started by ``accelerate launch``."""
    waits_for: Path | None = None
    """The pairs that a person judges before it ends."""


def loop(config: LoopConfig) -> None:
    """Run the rounds, beginning where an earlier call ended."""
    run = Run("loop", config, config.out, fields=FIELDS)
    run.save()
    done = _done(run.folder)
    for number in range(1, config.rounds + 1):
        for step in steps(config, number):
            if step.name not in done:
                say(f"round {number} of {config.rounds}: {shown(step, config.launch)}")
                _carry_out(step, config)
                done.append(step.name)
                write_json(run.folder / "loop.json", {"done": done})
        write_rounds(run.folder, number)
    run.save(finished=True)
    say(f"report of all rounds: {run.folder / 'report.html'}")


def steps(config: LoopConfig, number: int) -> list[Step]:
    """Return the commands of round ``number``, from 1, in their order."""
    here, before = (Path(config.out) / f"round_{n}" for n in (number, number - 1))
    pool, pairs, votes, known, reward, tuned = (
        here / part for part in ("pool", "pairs", "votes", "all", "reward", "tuned")
    )

    def step(name: str, *command: str, **more: Any) -> Step:
        return Step(f"round_{number} {name}", command, **more)

    drawn = (f"out={pool}", f"seed={1000 * number}", *([f"tuned={before / 'tuned'}"] if number > 1 else []))
    by = ("--doubts-of", str(before / "reward")) if number > 1 else ()
    found = [
        step("generate", "generate", *_words(config.generate), *drawn),
        step("choose", "choose", str(pool), str(pairs), *(("--count", str(config.votes)) if config.votes else ()), *by),
    ]
    if config.scripted is None:
        found.append(step("label", "label", str(pairs), waits_for=pairs))
    else:
        noise = ("--noise", str(config.noise), "--seed", str(number))
        found.append(step("label", "label", str(pairs), "--scripted", config.scripted, *noise))
    found.append(step("export", "export-pairs", "--format", "events", str(pairs), str(votes)))
    found += [
        step(
            f"import {n}", "import-pairs", "--format", "events", str(here.with_name(f"round_{n}") / "votes"), str(known)
        )
        for n in range(1, number + 1)
    ]
    return [
        *found,
        step("train-reward", "train-reward", *_words(config.reward), f"pairs={known}", f"out={reward}"),
        step("finetune", "finetune", *_words(config.finetune), f"reward={reward}", f"out={tuned}", finetunes=True),
        step("evaluate", "evaluate", str(here)),
    ]


def shown(step: Step, launch: tuple[str, ...]) -> str:
    """Return the command as a person would type it."""
    if step.finetunes:
        return shlex.join(["accelerate", "launch", *launch, "scripts/finetune.py", *step.command[1:]])
    return shlex.join(["rlhf-images", *step.command])


def _carry_out(step: Step, config: LoopConfig) -> None:
    """Run a step to its end. Raises `Stop` with its exit code if it does not end well.

    Its processes are a group of their own: a signal that ends the loop is passed on to all of them, whoever it came
    from, and the loop ends after the last of them. A launcher may die at once of what lets its process save first.
    """
    python = [sys.executable, "-m"]
    if step.finetunes:
        python += ["accelerate.commands.launch", *config.launch, "-m"]
    told: list[int] = []
    process = subprocess.Popen([*python, "rlhf_images", *step.command], process_group=0)

    def pass_on(number: int, _: FrameType | None) -> None:
        told.append(number)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in ENDING}
    try:
        if step.waits_for is not None:
            _end_once_judged(process, step.waits_for)
        code = process.wait()
        while told and _lives(process.pid):
            time.sleep(GLANCE / 20)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        name = signal.Signals(told[0]).name
        raise Interrupted(f"stopped by {name} in {step.name}; the same loop command continues", told[0])
    unjudged = _unjudged(step.waits_for) if step.waits_for is not None else 0
    if code and (unjudged or step.waits_for is None):
        raise _Failed(
            f"{step.name} ended with exit code {code}; mend what it says, and the same loop command continues", code
        )
    if unjudged:
        raise BadInput(
            f"{step.waits_for}: {unjudged} pairs are not judged yet; the same loop command opens the page again"
        )


def _end_once_judged(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait until every pair in ``folder`` is judged, and end the page then; or until it has ended by itself."""
    while process.poll() is None and _unjudged(folder):
        time.sleep(GLANCE)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)


def _unjudged(folder: Path) -> int:
    pairs = Pairs(folder)
    return len(pairs.pairs) - len(pairs.labelled())


def _lives(group: int) -> bool:
    """Return whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@final
class _Failed(Stop):
    """A step of the loop did not end well; its own line says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code


def _words(stage: Stage) -> tuple[str, ...]:
    return (stage,) if isinstance(stage, str) else stage


def _done(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / "loop.json").read_text(encoding="utf-8"))["done"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder}/loop.json: cannot be read ({error}); remove it to look at every step again") from None
