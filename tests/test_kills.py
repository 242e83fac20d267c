"""Runs that are killed at any moment, again and again, end exactly as the run that never was.

Briefly in the normal suite: a process that kills itself at each of its writes. At length (`make campaign`): signals at
random moments within the time that the whole run takes, to all processes as when a machine is taken away, or to one.
"""

import gc
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from forked import FULL, Launch, full_at, kill_at, launched, warm
from tiny_runs import WAYS, end, log, tiny_generator, values

from rlhf_images.checkpoint import load_checkpoint
from rlhf_images.errors import ProcessLost
from rlhf_images.report import refresh

LOST = ProcessLost.exit_code
KILLS, TERMS, STOPS = 300, 100, 20
PIECES = 20
"""Parts of the campaign: each is one test."""


def report(line: str) -> None:
    """Say what a campaign has found; ``pytest -s`` shows it."""
    os.write(2, f"\n{line}\n".encode())


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_killed_at_its_writes_and_continued_is_never_killed(generator, tmp_path, full):
    """Each launch is killed some writes further on, until one comes to its end."""
    changes = {"lora": None} if full else {}
    whole, torn = (values(generator, tmp_path / name, **changes) for name in ("whole", "torn"))
    assert launched("finetune", whole).codes() == [0]
    kills = 0
    for operation in (5, 41, 77, 29, 113, 60, 10_000):
        launch = launched("finetune", torn, 1, partial(kill_at, operation))
        (code,) = launch.codes()
        assert code in (0, -signal.SIGKILL), launch.said
        kills += code != 0
        if code == 0:
            break
    assert kills >= 3
    assert end(torn["out"]) == end(whole["out"])


@pytest.mark.campaign
@pytest.mark.parametrize("piece", range(6))
def test_a_disk_that_is_full_at_any_operation_of_a_run(generator, tmp_path, piece):
    """Of the whole run, not only of a checkpoint: pages, evaluations, logs, the tuned weights. Never a traceback."""
    whole = values(generator, tmp_path / "whole")
    assert launched("finetune", whole).codes() == [0]
    expected, codes = end(whole["out"]), list[int]()
    for operation in range(1 + piece, 1000, 6):
        torn = values(generator, tmp_path / f"torn-{operation}")
        launch = launched("finetune", torn, 1, partial(full_at, operation))
        codes += launch.codes()
        assert codes[-1] in (0, 2, 5), (operation, launch.said)
        assert "Traceback" not in launch.said, (operation, launch.said)
        if FULL not in launch.said:
            break  # it asks its disk not so often
        assert launched("finetune", torn).codes() == [0]
        assert end(torn["out"]) == expected, operation
    report(f"{len(codes)} full disks: exit codes { {code: codes.count(code) for code in set(codes)} }")


def wholes(generator: Path, folder: Path) -> Callable[[str, bool, int], tuple[dict[str, object], float]]:
    """Return a function that gives the end of the run that never stops, by algorithm, weights and processes.

    With it come the seconds that it took on this machine as it is now, within which a signal is to come.
    """
    known: dict[tuple[str, bool, int], tuple[dict[str, object], float]] = {}
    warm()

    def of(name: str, full: bool, count: int) -> tuple[dict[str, object], float]:
        key, begun = (name, full, count), time.monotonic()
        if key not in known:
            config = run_of(generator, folder / "-".join(map(str, key)), name, full)
            assert launched("finetune", config, count).codes() == [0] * count
            known[key] = end(config["out"]), time.monotonic() - begun
        return known[key]

    return of


def run_of(generator: Path, out: Path, name: str, full: bool) -> dict:
    return values(generator, out, name, **({"lora": None} if full else {}))


def interrupted(launch: Launch, chance: random.Random, number: int, longest: float) -> float:
    """Send all processes the signal at a random moment within ``longest`` seconds; return when."""
    time.sleep(chance.uniform(0, longest))
    for rank in range(len(launch.processes)):
        launch.send(rank, number)
    return time.monotonic()


def trials(seed: int, share: int) -> Iterator[tuple[random.Random, str, bool, int]]:
    """Yield for each of ``share`` trials its random numbers, and an algorithm, weights and number of processes."""
    chance, names = random.Random(seed), list(WAYS)
    while True:
        yield chance, names[chance.randrange(len(names))], chance.random() < 0.5, chance.choice((1, 1, 2))


def campaign(generator: Path, folder: Path, seed: int, share: int, number: int) -> None:
    """Send ``share`` signals, continuing each run until it ends; compare with the run that never stopped."""
    whole, sent, left = wholes(generator, folder), 0, list[float]()
    for run, (chance, name, full, count) in enumerate(trials(seed, share)):
        config = run_of(generator, folder / f"torn-{run}", name, full)
        expected, longest = whole(name, full, count)
        codes = [1]
        while any(codes):
            launch = launched("finetune", config, count)
            if sent < share:
                at = interrupted(launch, chance, number, longest)
                sent, codes = sent + 1, launch.codes()
                left.append(time.monotonic() - at)
            else:
                codes = launch.codes()
            allowed = {0, -number, 128 + number, -signal.SIGKILL, LOST}
            assert set(codes) <= allowed, (codes, launch.said)
            rows, found = Path(config["out"]) / "metrics.jsonl", load_checkpoint(Path(config["out"]) / "checkpoints")
            if rows.is_file() and rows.stat().st_size:
                assert (found[1]["step"] if found else 0) >= rows.read_text().count("\n") - 1
        assert end(config["out"]) == expected, (name, full, count)
        if sent >= share:
            report(f"{sent} signals {number} to {run + 1} runs; out after {max(left):.1f} s at the most")
            return
    raise AssertionError("unreachable")


@pytest.mark.campaign
@pytest.mark.parametrize("piece", range(PIECES))
def test_random_kills(generator, tmp_path, piece):
    campaign(generator, tmp_path, piece, KILLS // PIECES, signal.SIGKILL)


@pytest.mark.campaign
@pytest.mark.parametrize("piece", range(PIECES // 4))
def test_random_terminations(generator, tmp_path, piece):
    campaign(generator, tmp_path, 1000 + piece, TERMS // (PIECES // 4), signal.SIGTERM)


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_lost_at_random_moments(generator, tmp_path, number):
    """Everybody is out within 30 seconds, and at most the step that was under way is lost."""
    chance, names, took = random.Random(int(number)), list(WAYS), list[float]()
    for trial in range(STOPS // 2):
        name, full = names[chance.randrange(len(names))], chance.random() < 0.5
        config = run_of(generator, tmp_path / f"torn-{trial}", name, full) | {"steps": 30}
        config["evaluation"]["every"] = 30
        launch = launched("finetune", config, 2)
        rows = Path(config["out"]) / "metrics.jsonl"
        while not rows.is_file() or rows.read_text().count("\n") < 1:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        lost = chance.randrange(2)
        launch.send(lost, number)
        sent = time.monotonic()
        codes = launch.codes()
        took.append(time.monotonic() - sent)
        assert took[-1] < 30
        assert codes in ([0, 0], [-signal.SIGKILL, LOST], [LOST, -signal.SIGKILL]), (codes, launch.said)
        done = log(config["out"])[-1]["step"]
        found = load_checkpoint(Path(config["out"]) / "checkpoints")
        assert (found[1]["step"] if found else 0) >= done - 1  # none yet, if it was lost while the first was saved
        assert launched("finetune", config, 2).codes() == [0, 0]
        whole = config | {"out": str(tmp_path / f"whole-{trial}")}
        assert launched("finetune", whole, 2).codes() == [0, 0]
        assert end(config["out"]) == end(whole["out"])
    report(f"{len(took)} processes lost by {number}; all out after {max(took):.1f} s at the most")


def test_a_page_leaves_nothing_in_memory(generator, tmp_path):
    """Its figures refer to themselves: 10,000 objects a page of the tiny run would wait for the collector."""
    config = values(generator, tmp_path / "run")
    assert launched("finetune", config).codes() == [0]
    refresh(Path(config["out"]))
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(3):
            refresh(Path(config["out"]))
        assert len(gc.get_objects()) < before + 1000
    finally:
        gc.enable()
    assert gc.get_freeze_count() == 0


def anonymous(process: psutil.Process) -> float:
    """Return the memory of a process that is no file's, in MB.

    Not what it has alone: that grows as well when it writes to pages shared with the process it was forked from, and
    when another one that maps the same libraries ends.
    """
    status = (Path("/proc") / str(process.pid) / "status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**10


@pytest.mark.campaign
@pytest.mark.parametrize(("every", "first"), [(500, range(6, 10)), (50, range(2, 6))], ids=["few pages", "40 pages"])
def test_two_thousand_steps_need_no_more_memory_than_two_hundred(generator, tmp_path, every, first):
    """Each evaluation writes a page of all so far; ``first`` are hundreds of steps after the first with curves."""
    config = values(generator, tmp_path / "run", steps=2000, checkpoint_every=100)
    config["evaluation"]["every"] = every
    launch = launched("finetune", config)
    process, rows = psutil.Process(launch.processes[0].pid), tmp_path / "run" / "metrics.jsonl"
    found = dict[int, float]()
    while launch.processes[0].exitcode is None:
        step = rows.read_text().count("\n") if rows.is_file() else 0
        if step // 100 not in found:
            try:
                found[step // 100] = anonymous(process)
            except (OSError, IndexError):
                break
        time.sleep(0.2)
    assert launch.codes() == [0], launch.said
    early, late = (max(found[k] for k in found if k in part) for part in (first, range(16, 20)))
    report(f"memory by hundreds of steps, MB: { {step: round(size, 1) for step, size in found.items()} }")
    report(f"grown by {late - early:.1f} MB, {late / early - 1:.2%}")
    assert late < 1.01 * early, found
