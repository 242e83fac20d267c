"""FSDP2: a denoiser in parts learns what whole ones learn, though processes have unequal work."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from collectives import observe
from forked import launched
from test_processes import GROUP, PROMPTS, gradients
from tiny_runs import log, tiny_generator, tuned_tensors, values

from rlhf_images.algorithms import ALGORITHMS

CLOSE = 1e-6


def asks_for_fsdp(folder: str, rank: int) -> None:
    """What ``accelerate launch --config_file configs/accelerate/fsdp2.yaml`` leaves in the environment."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    observe(folder, rank)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def run(generator: Path, folder: Path, name: str, count: int, **changes) -> Path:
    sizes = {"prompts_per_step": 5, "group_size": GROUP, "updates_per_step": 2, "micro_size": 1, "steps": 2}
    quiet = {"checkpoint_every": 9, "evaluation": {"prompts": PROMPTS[:2], "seeds_per_prompt": 2, "every": 9}}
    rates = {"optimizer": {"lr": 1e-4}}
    config = values(generator, folder / f"on_{count}", name, prompts=PROMPTS, **{**sizes, **quiet, **rates, **changes})
    before = asks_for_fsdp if count > 1 else observe
    launch = launched("finetune", config, count, partial(before, str(folder / f"seen_{count}")))
    assert launch.codes(120) == [0] * count, launch.said
    return folder / f"on_{count}"


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_sharded_denoiser_learns_the_same(generator, tmp_path, name, lora):
    changes = {} if lora else {"lora": None}
    alone, together = (run(generator, tmp_path, name, number, **changes) for number in (1, 2))
    (first, *_), (other, *_) = log(alone), log(together)
    assert first == pytest.approx(other, rel=1e-5, abs=CLOSE)
    one, several = gradients(alone), gradients(together)
    assert len(one) == len(several) >= 2
    assert (several[0] - one[0]).norm() <= CLOSE * one[0].norm() > 0
    for part, weights in tuned_tensors(alone).items():
        torch.testing.assert_close(tuned_tensors(together)[part], weights, rtol=0, atol=CLOSE)
