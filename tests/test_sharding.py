"""FSDP2: a denoiser in parts learns what whole ones learn, though processes have unequal work."""

import json
import os
import signal
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from collectives import observe
from families import FAMILIES, TARGETS, family
from forked import launched
from poison import poison
from test_processes import CLOSE, gradients
from tiny_runs import end, log, tiny_generator, tuned_tensors, values
from torch import distributed

from rlhf_images.algorithms import ALGORITHMS
from rlhf_images.errors import BadInput, ProcessLost, Stop
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import ATTENTION, LoraConfig, make_trainable
from rlhf_images.lockstep import Lockstep
from rlhf_images.randomness import Randomness
from rlhf_images.sharding import local, shard, whole
from rlhf_images.snapshots import Snapshots

PROMPTS = ["a handwritten one", "two", "a handwritten three"]
GROUP = 3
"""Nine pictures: one of two processes has four of them, and a group straddles both."""
USUAL = [("nft", False), ("grpo", True), ("draft", False), ("online_dpo", False)]
EVERY = [(name, lora) for name in ALGORITHMS for lora in (True, False)]
CASES = [
    *((name, lora, 2) for name, lora in USUAL),
    *(
        pytest.param(name, lora, count, marks=pytest.mark.campaign)
        for count in (2, 3)
        for name, lora in EVERY
        if (name, lora, count) not in [(*case, 2) for case in USUAL]
    ),
]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def asks_for_fsdp(rank: int) -> None:
    """Leave in the environment what ``accelerate launch --config_file configs/accelerate/fsdp2.yaml`` does."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}


def watched(folder: str, rank: int) -> None:
    """Tell in ``folder`` what processes say to one another, and of how much of the denoiser each has the weights."""
    asks_for_fsdp(rank)
    observe(folder, rank)
    begin = Lockstep.__init__

    @wraps(begin)
    def counted(self: Lockstep, network: torch.nn.Module, *arguments: object) -> None:
        begin(self, network, *arguments)
        here, there = (sum(part(p).numel() for p in network.parameters()) for part in (local, torch.Tensor.detach))
        Path(folder, f"weights_{rank}.json").write_text(json.dumps([here, there]))

    Lockstep.__init__ = counted


def poisoned(point: str, file: str, rank: int) -> None:
    asks_for_fsdp(rank)
    poison(point, 1, float("nan"), file, rank)


def config(generator: Path, out: Path, name: str = "nft", **changes) -> dict:
    sizes = {"prompts_per_step": 3, "group_size": GROUP, "updates_per_step": 3, "micro_size": 1, "steps": 2}
    quiet = {"checkpoint_every": 9, "evaluation": {"prompts": PROMPTS[:1], "seeds_per_prompt": 3, "every": 9}}
    rates = {"optimizer": {"lr": 1e-4}}
    return values(generator, out, name, prompts=PROMPTS, **{**sizes, **quiet, **rates, **changes})


def run(generator: Path, folder: Path, name: str, count: int, **changes) -> Path:
    before = partial(watched if count > 1 else observe, str(folder / f"seen_{count}"))
    launch = launched("finetune", config(generator, folder / f"on_{count}", name, **changes), count, before)
    assert launch.codes(120) == [0] * count, launch.said
    return folder / f"on_{count}"


@pytest.mark.parametrize(("name", "lora", "count"), CASES)
def test_a_sharded_denoiser_learns_the_same(generator, tmp_path, name, lora, count):
    """The first pictures and scores bit by bit, every gradient to 1e-6 of its length, the weights to 1e-6."""
    changes = {} if lora else {"lora": None}
    alone, together = (run(generator, tmp_path, name, number, **changes) for number in (1, count))
    (first, *_), (other, *_) = log(alone), log(together)
    drawn = ["reward", "reward_p10", "reward_p90", "reward_std", "reward/sign"]
    assert [first[key] for key in drawn] == [other[key] for key in drawn]
    assert first == pytest.approx(other, rel=1e-5, abs=CLOSE)
    one, several = gradients(alone), gradients(together)
    assert len(one) == len(several) >= 2
    assert (several[0] - one[0]).norm() <= CLOSE * one[0].norm() > 0
    for part, weights in tuned_tensors(alone).items():
        torch.testing.assert_close(tuned_tensors(together)[part], weights, rtol=0, atol=CLOSE)
    for rank in range(count):
        here, there = json.loads((tmp_path / f"seen_{count}" / f"weights_{rank}.json").read_text())
        adapters = len(one[0]) if lora else 0
        assert (here - adapters) / (there - adapters) == pytest.approx(1 / count, abs=0.02)


@pytest.mark.parametrize("lora", [pytest.param(True, marks=pytest.mark.campaign), False])
def test_stopped_and_continued_in_parts_or_whole_is_never_stopped(generator, tmp_path, lora):
    """Bit by bit where it is sharded as before; else as by another number of processes."""
    kind = {"micro_size": 2, "checkpoint_every": 1, **({} if lora else {"lora": None})}
    kind["evaluation"] = {"prompts": PROMPTS[:1], "seeds_per_prompt": 3, "every": 2}

    def done(name: str, *parts: tuple[int, int, object]) -> Path:
        for steps, count, before in parts:
            part = config(generator, tmp_path / name, **{**kind, "steps": steps})
            launch = launched("finetune", part, count, before)
            assert launch.codes(120) == [0] * count, launch.said
        return tmp_path / name

    never = done("never", (4, 2, asks_for_fsdp))
    assert end(done("again", (2, 2, asks_for_fsdp), (4, 2, asks_for_fsdp))) == end(never)
    others = {"whole": ((2, 2, asks_for_fsdp), (4, 1, None)), "sharded": ((2, 1, None), (4, 2, asks_for_fsdp))}
    for name, parts in others.items():
        for row, other in zip(log(done(name, *parts)), log(never), strict=True):
            assert {**row, "reward/sign": 0} == pytest.approx({**other, "reward/sign": 0}, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("point", ["loss", "gradient"])
def test_what_is_not_finite_in_one_part_is_refused_by_all(generator, tmp_path, point):
    file, opened = tmp_path / "left", config(generator, tmp_path / "run", lora=None)
    launch = launched("finetune", opened, 2, partial(poisoned, point, str(file)))
    assert launch.codes(120) == [3, 3], launch.said
    assert "Traceback" not in launch.said
    assert [Path(f"{file}.{rank}").read_text() for rank in (0, 1)] == ["NonFinite in step 1, weights unchanged"] * 2


def test_everybody_leaves_when_one_is_lost(generator, tmp_path):
    long = config(generator, tmp_path / "run", lora=None, steps=500)
    launch = launched("finetune", long, 2, asks_for_fsdp)
    while not (tmp_path / "run" / "metrics.jsonl").is_file():
        assert all(process.exitcode is None for process in launch.processes), launch.said
    launch.send(1, signal.SIGKILL)
    assert launch.codes(60) == [ProcessLost.exit_code, -signal.SIGKILL]
    assert "the same command continues" in launch.said
    assert "Traceback" not in launch.said


def test_a_denoiser_that_takes_one_time_a_call_is_not_tried_in_parts(tmp_path):
    """With guidance a UNet refuses two times halfway; here one process has two pictures to learn from, one has one."""
    pipe, _ = family("SD1.5 guided")
    pipe.save_pretrained(tmp_path / "generator")
    sizes = {"prompts_per_step": 1, "micro_size": 2, "updates_per_step": 1, "steps": 1}
    guided = config(tmp_path / "generator", tmp_path / "run", **sizes)
    guided["generator"] = {"path": str(tmp_path / "generator"), "steps": 4, "guidance": 3.0, "height": 16, "width": 16}
    launch = launched("finetune", guided, 2, asks_for_fsdp)
    assert launch.codes(60) == [0, 0], launch.said


class Halfway(torch.nn.Module):
    """A network that raises in the middle of its second pass."""

    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.passes == 2:
            raise RuntimeError("it takes one time only")
        return 2 * x


def test_a_pass_that_ends_halfway_stops_its_process_whoever_caught_the_error():
    """Or the others would wait in it, for half an hour."""
    network = Halfway()
    pace = Lockstep(network, Snapshots({}), ((torch.ones(1),), {}), largest=lambda number: number)
    network(torch.ones(1))
    pace.wait()
    with suppress(RuntimeError):
        network(torch.ones(1))
    with pytest.raises(Stop, match="ended halfway"):
        pace.wait()


@pytest.fixture(scope="module")
def group():
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def answers(name: str, lora: LoraConfig | None, options: FullyShardedDataParallelPlugin | None):
    """Return pictures, a loss, and the gradients of all that is trained."""
    pipe, settings = family(name)
    generator = Generator(pipe, settings)
    make_trainable(generator, lora, 0)
    with torch.no_grad():
        for i, parameter in enumerate(generator.parameters.values()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    if options:
        shard(generator.denoiser, options, torch.device("cpu"), 1)
    drawn = generator.sample(["fog", "dew"], Randomness(0).generators("sample", [0, 1]))
    loss = generator.predict(["fog", "dew"], drawn.x_TB[1], torch.full((2,), 0.5)).x0.square().mean()
    loss.backward()
    gradients = [whole(p.grad).flatten() for p in generator.parameters.values() if p.grad is not None]
    return drawn.images, loss.detach(), torch.cat(gradients)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", ["adapters", "all weights"])
@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row.full])
def test_every_denoiser_can_be_sharded(group, name, trained):
    """None reaches for a block's weights from outside of it, nor looks at them while they are in parts."""
    lora = LoraConfig(rank=2, alpha=4, target_modules=tuple(TARGETS.get(name, ATTENTION)))
    options = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
    kinds = [answers(name, lora if trained == "adapters" else None, found) for found in (None, options)]
    (images, loss, gradient), (other_images, other_loss, other_gradient) = kinds
    assert torch.equal(images, other_images)
    assert torch.equal(loss, other_loss)
    assert (gradient - other_gradient).norm() <= CLOSE * gradient.norm() > 0


def test_blocks_that_are_not_there_and_weights_that_would_be_stale_are_refused(group):
    pipe, _ = family("SD3")
    pipe.transformer.requires_grad_(True)
    for settings, words in (
        ({"transformer_cls_names_to_wrap": ["NoBlock"], "reshard_after_forward": True}, "has no block NoBlock"),
        ({"reshard_after_forward": False}, "is for adapters"),
    ):
        options = FullyShardedDataParallelPlugin(fsdp_version=2, **settings)
        with pytest.raises(BadInput, match=words):
            shard(pipe.transformer, options, torch.device("cpu"), 1)
