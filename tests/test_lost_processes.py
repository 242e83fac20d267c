"""Processes that die or stop: everybody leaves, and the same command continues as if nothing had been."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from forked import Launch, launched
from tiny_runs import end, log, tiny_generator, values

from rlhf_images.errors import ProcessLost


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def after_rows(launch: Launch, out: str, rows: int) -> None:
    """Wait until a launch has logged ``rows`` steps."""
    path = Path(out) / "metrics.jsonl"
    while not path.is_file() or path.read_text().count("\n") < rows:
        assert all(process.exitcode is None for process in launch.processes), launch.said
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "lost"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 0)])
def test_everybody_leaves_and_the_same_command_continues(generator, tmp_path, number, lost):
    """The stopped one cannot end by itself: another process of its machine does it."""
    whole, torn = (values(generator, tmp_path / name, steps=8) for name in ("whole", "torn"))
    assert launched("finetune", whole, 2).codes() == [0, 0]
    launch = launched("finetune", torn, 2)
    after_rows(launch, torn["out"], 2)
    launch.send(lost, number)
    codes = launch.codes()
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] == ProcessLost.exit_code
    assert "the same command continues from the last checkpoint" in launch.said
    assert "Traceback" not in launch.said
    logged = log(torn["out"])[-1]["step"]
    again = launched("finetune", torn, 2)
    assert again.codes() == [0, 0]
    kept = int(again.said.partition("continues after step ")[2].split()[0])
    assert kept >= logged - 1
    assert end(torn["out"]) == end(whole["out"])


def test_another_number_of_processes_takes_over_exactly_what_was_saved(generator, tmp_path):
    """1 → 2 → 1: nothing of the state depends on how many there are; from there on sums are taken in another order."""
    whole, moved = (values(generator, tmp_path / name, steps=6) for name in ("whole", "moved"))
    assert launched("finetune", whole).codes() == [0]
    for steps, count in ((2, 1), (4, 2), (6, 1)):
        launch = launched("finetune", {**moved, "steps": steps}, count)
        assert launch.codes() == [0] * count, launch.said
        if steps > 2:
            assert f"continues after step {steps - 2}" in launch.said
    found, expected = log(moved["out"]), log(whole["out"])
    assert found[:2] == expected[:2]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


def from_a_folder_of_its_own(folder: Path, rank: int) -> None:
    """Let process ``rank`` find another folder under the same name, as machines do that share none."""
    os.chdir(folder / str(rank))


def test_processes_that_do_not_share_the_run_s_folder_are_refused(generator, tmp_path):
    """The first sees the checkpoint that it has written, the second none: neither may go on."""
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    file = tmp_path / "run.yaml"
    codes, said = [], ""
    for steps in (1, 2):
        file.write_text(json.dumps(values(generator, "run", steps=steps)))
        launch = Launch("finetune", file, 2, partial(from_a_folder_of_its_own, tmp_path))
        codes, said = [*codes, launch.codes()], launch.said
    assert codes == [[0, 0], [2, 2]]
    assert "the processes find different checkpoints; they must share this folder" in said
    assert "Traceback" not in said
    assert [row["step"] for row in log(tmp_path / "0" / "run")] == [1]


def test_a_process_whose_every_picture_failed_knows_no_parts_and_the_step_goes_on(generator, tmp_path):
    """Half of the pictures have no score, which is tolerated here; the parts are those that the other process has."""
    half = values(generator, tmp_path / "half", steps=1, tolerated_failures=0.5)
    half["reward"] = "rewards_for_tests:LostOnTheSecondProcess"
    launch = launched("finetune", half, 2)
    assert launch.codes() == [0, 0], launch.said
    (row,) = log(half["out"])
    assert row["reward_failures"] == 2
    assert row["reward/light"] == pytest.approx(row["reward"])
