"""The decision process: which steps are drawn, and that what was sampled is what is learnt from."""

import functools
import itertools

import pytest
import torch
from families import FAMILIES, PROMPTS, TARGETS, family
from hypothesis import given
from hypothesis import strategies as st

from rlhf_images.algorithms import Scored
from rlhf_images.algorithms.ddpo import DDPO
from rlhf_images.algorithms.dppo import DPPO
from rlhf_images.algorithms.grpo import GRPO
from rlhf_images.algorithms.grpo_guard import GRPOGuard
from rlhf_images.algorithms.policy_gradient import Window
from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import LoraConfig, make_trainable
from rlhf_images.math.kernels import KERNELS
from rlhf_images.math.path import Rectified
from rlhf_images.policy import OptimizerConfig, Policy
from rlhf_images.processes import Processes
from rlhf_images.randomness import Randomness
from rlhf_images.reward import FunctionReward

NO_REWARD = FunctionReward(lambda images, prompts: 1 / 0)


@given(
    total=st.integers(2, 50),
    part=st.floats(0, 1),
    placed=st.sampled_from(["first", "random", "sliding"]),
    within=st.floats(0, 1),
    step=st.integers(0, 10_000),
)
def test_a_window_lies_before_the_last_step_and_has_its_size(total, part, placed, within, step):
    size = max(1, round(part * (total - 1)))
    steps = Window(size=size, placed=placed, within=within, every=7).steps(total, Randomness(3, step))
    assert len(steps) == size
    assert steps.start >= 0
    assert steps.stop <= total - 1


def test_windows_move_as_they_say():
    starts = [Window(size=2, placed="sliding", every=3).steps(6, Randomness(0, step)).start for step in range(15)]
    assert starts == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0]
    drawn = {Window(size=1, placed="random", within=0.5).steps(11, Randomness(0, step)).start for step in range(200)}
    assert drawn == set(range(5))
    assert Window().steps(10, Randomness(0, 5)) == range(9)


@functools.lru_cache(maxsize=1)
def policy_of(name):
    """A family's pipeline with adapters, and its reference: nobody below moves a weight."""
    pipe, config = family(name)
    generator = Generator(pipe, config)
    targets = {"target_modules": TARGETS[name]} if name in TARGETS else {}
    make_trainable(generator, LoraConfig(rank=2, alpha=4, **targets), seed=0)
    return generator, Policy(generator, ("reference",), OptimizerConfig(), Processes())


def first_examples(generator, policy, algorithm, prompts, micro_size):
    """Every drawn step of a picture of each prompt, as the loop would learn from them before its first update."""
    randomness, index = Randomness(0), list(range(len(prompts)))
    rollout = algorithm.rollout(generator, policy.snapshots, prompts, index, randomness, micro_size)
    assert rollout.means.shape[:2] == (len(prompts), generator.config.steps - 1)
    advantages_PK = torch.linspace(-1, 1, len(prompts))[None]
    scored = Scored(advantages_PK, torch.ones_like(advantages_PK).bool(), advantages_PK, index, None)
    return algorithm.examples(rollout, scored, generator, randomness)


@pytest.mark.parametrize(("name", "kernel"), list(itertools.product(FAMILIES, KERNELS)))
def test_before_the_first_update_every_ratio_is_exactly_one(name, kernel):
    """In float32 on the CPU, where as many pictures are learnt side by side as were drawn; every KL is exactly 0."""
    generator, policy = policy_of(name)
    algorithm = GRPO(kernel=kernel)
    if kernel.endswith("sde") and not isinstance(generator.path, Rectified):
        with pytest.raises(BadInput, match="ddim or cps"):
            algorithm.drawing(generator.path)
        return
    for micro in first_examples(generator, policy, algorithm, PROMPTS[:2], 2).split(2):
        loss, metrics = algorithm.loss(generator, policy.snapshots, NO_REWARD, micro)
        assert torch.isfinite(loss).all()
        assert loss.requires_grad
        assert metrics["ratio"].tolist() == [1, 1]
        assert metrics["kl"].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["SD1.5 v, DDIM", "SD3"])
@pytest.mark.parametrize("kind", [GRPOGuard, DPPO, DDPO])
def test_every_algorithm_s_first_ratio_is_one(kind, name):
    """Exactly; and but for the last bits where other numbers of pictures run side by side than were drawn."""
    generator, policy = policy_of(name)
    algorithm = kind()
    examples = first_examples(generator, policy, algorithm, PROMPTS, 3)
    for size, off in ((3, 0), (1, 5e-6), (2, 5e-6)):
        for micro in examples.split(size):
            ratio = algorithm.loss(generator, policy.snapshots, NO_REWARD, micro)[1]["ratio"]
            assert (ratio - 1).abs().max() <= off


def test_outside_the_window_the_ode_is_followed():
    pipe, config = family("SD3")
    generator = Generator(pipe, config)
    algorithm = GRPO(window=Window(size=1, placed="sliding", every=1))
    for step in range(config.steps - 1):
        rollout = algorithm.rollout(generator, None, PROMPTS[:1], [0], Randomness(0, step), 1)
        assert rollout.drawn.tolist() == [[step]]
