"""ZeRO: processes that keep a share of AdamW's moments each learn what one process learns. Needs DeepSpeed."""

import json
import os
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from forked import launched
from safetensors.torch import load_file, save_file
from test_processes import GROUP, PROMPTS
from tiny_runs import end, log, tiny_generator, tuned_tensors, values

from rlhf_images.algorithms import ALGORITHMS
from rlhf_images.errors import BadInput, NonFinite, ProcessLost
from rlhf_images.partition import Partitioned
from rlhf_images.policy import Policy
from rlhf_images.processes import Processes

CLOSE = 1e-6
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra: [deepspeed]")
ALL_WEIGHTS = {"lora": None}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def alone(rank: int) -> None:
    """MKL otherwise rounds by where a matrix lies in memory, which two launches do not share."""
    del rank
    os.environ["MKL_CBWR"] = "COMPATIBLE"


def asks_for_zero(stage: int, rank: int) -> None:
    """What ``accelerate launch --config_file configs/accelerate/deepspeed_zero2.yaml`` leaves in the environment."""
    alone(rank)
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    os.environ["ACCELERATE_CONFIG_DS_FIELDS"] = "zero_stage,mixed_precision"


def config(generator: Path, out: Path, name: str = "nft", **changes) -> dict:
    """One picture a forward, so that all compute on equal shapes; and most gradients are clipped."""
    sizes = {"prompts_per_step": 5, "group_size": GROUP, "updates_per_step": 2, "micro_size": 1, "steps": 2}
    quiet = {"checkpoint_every": 9, "evaluation": {"prompts": PROMPTS[:2], "seeds_per_prompt": 2, "every": 9}}
    rates = {"optimizer": {"lr": 1e-4, "max_grad_norm": 1e-3}}
    return values(generator, out, name, prompts=PROMPTS, **{**sizes, **quiet, **rates, **changes})


def run(values: dict, count: int, before) -> Path:
    launch = launched("finetune", values, count, before)
    assert launch.codes() == [0] * count, launch.said
    return Path(values["out"])


def assert_the_same(one: Path, other: Path) -> None:
    for row, same in zip(log(one), log(other), strict=True):
        assert {**row, "reward/sign": 0} == pytest.approx({**same, "reward/sign": 0}, rel=1e-3, abs=1e-5)
    assert log(one)[0]["grad_norm"] == pytest.approx(log(other)[0]["grad_norm"], rel=1e-5)
    for part, weights in tuned_tensors(one).items():
        torch.testing.assert_close(tuned_tensors(other)[part], weights, rtol=0, atol=CLOSE)


SOME = [  # with online_dpo, one process has the only example
    ("nft", 2, {}),
    ("nft", 1, ALL_WEIGHTS),
    ("grpo", 2, {"algorithm": {"name": "grpo", "kl_weight": 0.1}, **ALL_WEIGHTS}),
    ("online_dpo", 2, {"prompts_per_step": 1, "group_size": 4, "updates_per_step": 1}),
]
EVERY = [(name, stage, lora) for name in ALGORITHMS for stage in (1, 2) for lora in ({}, ALL_WEIGHTS)]


@needs_deepspeed
@pytest.mark.parametrize(
    ("name", "stage", "changes"), [*SOME, *(pytest.param(*row, marks=pytest.mark.campaign) for row in EVERY)]
)
def test_partitioned_processes_learn_the_same(generator, tmp_path, name, stage, changes):
    single = run(config(generator, tmp_path / "one", name, **changes), 1, alone)
    several = run(config(generator, tmp_path / "two", name, **changes), 2, partial(asks_for_zero, stage))
    assert_the_same(single, several)


@needs_deepspeed
def test_a_run_goes_on_with_any_number_of_processes(generator, tmp_path):
    """Bit by bit with as many; two, then one, then two again as by another number: moments are put back in place."""
    zero = partial(asks_for_zero, 2)
    often = {"checkpoint_every": 1, "evaluation": {"prompts": PROMPTS[:2], "seeds_per_prompt": 2, "every": 1}}

    def done(name: str, *parts: tuple[int, int, object]) -> Path:
        for steps, count, before in parts:
            run(config(generator, tmp_path / name, steps=steps, **often), count, before)
        return tmp_path / name

    never = done("never", (3, 2, zero))
    assert end(done("again", (1, 2, zero), (3, 2, zero))) == end(never)
    assert_the_same(done("others", (1, 2, zero), (2, 1, alone), (3, 2, partial(asks_for_zero, 1))), never)


def reports(folder: str, rank: int) -> None:
    """Write how many bytes of gradients, moments and copies this process has, and of what is trained."""
    asks_for_zero(2, rank)
    step = Partitioned.step

    def reported(self: Partitioned) -> None:
        storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in self._mine}
        whole = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        assert not whole
        gradients = sum(storages.values())
        step(self)
        state = self.zero.optimizer.state.values()
        held = sum(slots[name].nbytes for slots in state for name in ("exp_avg", "exp_avg_sq"))
        kept = sum(part.nbytes for part in self.zero.optimizer.param_groups[0]["params"])
        trained = sum(parameter.nbytes for parameter in self.parameters.values())
        largest = max(parameter.nbytes for parameter in self.parameters.values())
        Path(folder, f"{rank}.json").write_text(json.dumps([gradients, held, kept, trained, largest]))

    Partitioned.step = reported


@needs_deepspeed
def test_each_process_keeps_its_share_of_gradients_and_moments(generator, tmp_path):
    run(config(generator, tmp_path / "run", **ALL_WEIGHTS), 2, partial(reports, str(tmp_path)))
    for rank in range(2):
        gradients, held, kept, trained, largest = json.loads((tmp_path / f"{rank}.json").read_text())
        assert gradients <= 1.01 * trained / 2 + largest  # the tensor that two shares divide is kept whole by both
        assert held == pytest.approx(2 * trained / 2, rel=0.01)
        assert kept == pytest.approx(trained / 2, rel=0.01)


def poisons(folder: str, stage: int, rank: int) -> None:
    """Let one process's loss of the second update be not a number; keep the weights before and after."""
    asks_for_zero(stage, rank)
    add, update, updates = Partitioned.add, Policy.update, [0]

    def poisoned(self: Partitioned, loss: torch.Tensor) -> None:
        add(self, loss * torch.nan if rank == 1 and updates[0] == 2 else loss)

    def watched(self: Policy, *arguments: object) -> float:
        updates[0] += 1
        before = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        try:
            return update(self, *arguments)
        except NonFinite:
            save_file(before, Path(folder, f"before_{rank}"))
            save_file({name: p.detach().clone() for name, p in self.parameters.items()}, Path(folder, f"after_{rank}"))
            raise

    Partitioned.add, Policy.update = poisoned, watched


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2])
def test_what_is_not_finite_is_refused_by_all_and_no_weight_moves(generator, tmp_path, stage):
    launch = launched("finetune", config(generator, tmp_path / "run"), 2, partial(poisons, str(tmp_path), stage))
    assert launch.codes() == [NonFinite.exit_code] * 2, launch.said
    assert "the update was refused" in launch.said
    for rank in range(2):
        before, after = (load_file(tmp_path / f"{name}_{rank}") for name in ("before", "after"))
        assert all(torch.equal(before[name], after[name]) for name in before)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2])
def test_everybody_leaves_when_one_is_lost(generator, tmp_path, stage):
    launch = launched("finetune", config(generator, tmp_path / "run", steps=500), 2, partial(asks_for_zero, stage))
    while not (tmp_path / "run" / "metrics.jsonl").is_file():
        assert all(process.exitcode is None for process in launch.processes), launch.said
    launch.send(1, signal.SIGKILL)
    assert launch.codes(60) == [ProcessLost.exit_code, -signal.SIGKILL], launch.said
    assert "Traceback" not in launch.said


def lacks_deepspeed(rank: int) -> None:
    asks_for_zero(2, rank)
    sys.modules["deepspeed"] = None


def test_without_deepspeed_it_is_said_in_one_line(generator, tmp_path):
    launch = launched("finetune", config(generator, tmp_path / "run"), 2, lacks_deepspeed)
    assert launch.codes() == [BadInput.exit_code] * 2, launch.said
    assert "pip install 'rlhf-images[deepspeed]'" in launch.said
    assert "Traceback" not in launch.said


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", r"zero_stage 3 is not supported.*configs/accelerate/fsdp2\.yaml"),
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0", r"zero_stage 0 is not supported"),
        ("ACCELERATE_CONFIG_DS_FIELDS", "zero_stage,offload_optimizer_device", r"offload_optimizer_device: not read"),
    ],
)
def test_what_is_not_done_is_refused(monkeypatch, variable, value, told):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match=told):
        Processes()
