"""Any number of processes: the same pictures, the same gradients, the same weights, and what they tell each other."""

import json
from pathlib import Path

import pytest
import torch
from collectives import observing
from forked import launched
from safetensors.torch import load_file
from tiny_runs import log, tiny_generator, tuned_tensors, values

from rlhf_images.algorithms import ALGORITHMS

COUNTS = [2, pytest.param(3, marks=pytest.mark.campaign), pytest.param(4, marks=pytest.mark.campaign)]
PROMPTS = [f"a handwritten {word}" for word in ("one", "two", "three", "four", "five")]
GROUP, PICTURES, UPDATES, LATENT = 2, 10, 2, 4 * 8 * 8
"""Five groups of two on 2, 3 and 4 processes: always some straddle two of them."""
COLUMNS = 2
"""Numbers that `Signed` says of a picture: its score, and a checksum of its bits."""
CLOSE = 1e-6


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def run(generator: Path, folder: Path, name: str, count: int, **changes) -> Path:
    """Return the folder of a run of ``count`` processes; one picture a forward, so that all compute on equal shapes."""
    sizes = {"prompts_per_step": 5, "group_size": GROUP, "updates_per_step": UPDATES, "micro_size": 1, "steps": 2}
    quiet = {"checkpoint_every": 9, "evaluation": {"prompts": PROMPTS[:2], "seeds_per_prompt": 2, "every": 9}}
    rates = {"optimizer": {"lr": 1e-4}}
    config = values(generator, folder / f"on_{count}", name, prompts=PROMPTS, **{**sizes, **quiet, **rates, **changes})
    launch = launched("finetune", config, count, observing(folder / f"seen_{count}"))
    assert launch.codes() == [0] * count, launch.said
    return folder / f"on_{count}"


def gradients(out: Path) -> list[torch.Tensor]:
    """Return the gradient of each update, summed over the processes."""
    files = sorted(out.with_name(out.name.replace("on_", "seen_")).glob("update_*"))
    return [load_file(file)["gradient"] for file in files]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_processes_change_nothing(generator, tmp_path, name, count):
    """The first pictures and scores bit by bit, every gradient to 1e-6 of its length, the weights to 1e-6."""
    alone, together = (run(generator, tmp_path, name, number) for number in (1, count))
    (first, *later), (other, *others) = log(alone), log(together)
    drawn = ["reward", "reward_p10", "reward_p90", "reward_std", "reward/sign"]
    assert [first[key] for key in drawn] == [other[key] for key in drawn]
    assert first == pytest.approx(other, rel=1e-5, abs=CLOSE)
    for row, same in zip(later, others, strict=True):
        assert {**row, "reward/sign": 0} == pytest.approx({**same, "reward/sign": 0}, rel=1e-3, abs=1e-5)
    one, several = gradients(alone), gradients(together)
    assert len(one) == len(several) >= 2
    assert (several[0] - one[0]).norm() <= CLOSE * one[0].norm() > 0
    for part, weights in tuned_tensors(alone).items():
        torch.testing.assert_close(tuned_tensors(together)[part], weights, rtol=0, atol=CLOSE)
    assert_collectives(tmp_path / f"seen_{count}" / "collectives.jsonl", name, count, len(one[0]))


def test_a_reward_that_compares_the_pictures_of_a_group_sees_all_of_it(generator, tmp_path):
    """And one that is normalised, by pictures that were drawn on both processes."""
    mixture = {"rewards_for_tests:brightness": 1.0, "diversity": 0.5}
    alone, together = (log(run(generator, tmp_path, "nft", count, reward=mixture, steps=1)) for count in (1, 2))
    assert len({row["reward/diversity"] for row in (*alone, *together)}) == 1
    assert alone[0]["reward/diversity"] != 0
    assert alone == [pytest.approx(row, rel=1e-5, abs=CLOSE) for row in together]


def assert_collectives(file: Path, name: str, count: int, trained: int) -> None:
    """One sum of the gradients an update; besides a few numbers a picture, in as many sums whatever their count."""
    for row in file.read_text().splitlines():
        step = [(kind, size) for kind, size in json.loads(row)]
        floats = [size // 4 for kind, size in step if kind == "all_reduce"]
        latents = [PICTURES // GROUP * LATENT] if name == "online_dpo" else []
        told = [PICTURES, count, COLUMNS * PICTURES, *latents, count * (UPDATES + 1)]
        updates = [trained + 1] * floats.count(trained + 1)
        assert 1 <= len(updates) <= UPDATES  # an update in which no group says anything is none
        metrics = floats[len(told) + len(updates) :]
        assert floats == [*told, *updates, *metrics]
        assert all(size <= 16 * count for size in metrics)
        assert len(metrics) <= 2
        names = [size for kind, size in step if kind == "all_gather_object"]
        assert len(names) == 3  # of the parts of a score, of the updates, of the metrics
        assert sum(names) < 512
        assert len(step) == len(floats) + len(names)
