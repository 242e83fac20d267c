"""A number that is not finite, anywhere, on any process, in any type: refused in that step, by all, with evidence."""

from pathlib import Path

import pytest
from forked import launched
from poison import EARLIER, POINTS, STEP, poisoning
from safetensors.torch import load_file
from tiny_runs import log, tiny_generator, values

DTYPES = ["float32", "bfloat16", "float16"]
NUMBERS = [float("nan"), float("inf"), float("-inf")]
ALL = [*POINTS, *EARLIER]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def refused(generator: Path, folder: Path, point: str, victim: int, dtype: str, number: float, count: int) -> None:
    """Run with a poisoned process, and look at everything that it should and should not have done."""
    config = values(generator, folder / "run")
    config["generator"]["dtype"] = dtype
    launch = launched("finetune", config, count, poisoning(point, victim, number, folder / "left"))
    code = 4 if point == "reward" else 3
    assert launch.codes() == [code] * count, launch.said
    out, steps = folder / "run", {"weights": 0, "evaluation": 2}.get(point, STEP)
    assert "Traceback" not in launch.said
    if point == "weights":
        assert "of its vae holds numbers that are not finite" in launch.said
        assert not out.exists()
        return
    assert [row["step"] for row in log(out)] == list(range(1, steps + 1))
    newest = {path.name for path in (out / "checkpoints").iterdir()}
    assert max(newest) == f"step_{STEP:08d}"  # what was poisoned was not saved
    name = "evaluation" if point == "evaluation" else f"step_{STEP:06d}"
    for rank in range(count):
        evidence = load_file(out / "refused" / f"{name}_process_{rank}.safetensors")
        assert len(evidence["images"]) == (2 if point == "evaluation" else 4) // count
    if point != "evaluation":
        kind = "RewardFailed" if point == "reward" else "NonFinite"
        told = [Path(f"{folder / 'left'}.{rank}").read_text() for rank in range(count)]
        assert told == [f"{kind} in step {STEP}, weights unchanged"] * count
        assert f"step {STEP}: " in launch.said


@pytest.mark.parametrize("point", ALL)
def test_it_is_refused_in_the_same_step_by_every_process(generator, tmp_path, point):
    """On the second of two; the types and numbers take turns."""
    turn = ALL.index(point)
    refused(generator, tmp_path, point, 1, DTYPES[turn % 3], NUMBERS[turn // 3], 2)


@pytest.mark.campaign
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("point", ALL)
def test_at_every_point_of_every_process_in_every_type(generator, tmp_path, point, dtype):
    for victim, count in ((0, 1), (0, 2), (1, 2)):
        for number in NUMBERS:
            place = tmp_path / f"{victim}-{count}-{number}"
            refused(generator, place, point, victim, dtype, number, count)


def test_a_reward_that_raises_on_one_process_stops_all(generator, tmp_path):
    config = values(generator, tmp_path / "run", reward="rewards_for_tests:raises_on_the_second_process")
    launch = launched("finetune", config, 2)
    assert launch.codes() == [4, 4], launch.said
    assert "process 1: raises_on_the_second_process-" in launch.said
    assert ": the function raised RuntimeError: only here" in launch.said
