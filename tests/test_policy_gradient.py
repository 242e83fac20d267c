"""The decision process: which steps are drawn, and that what was sampled is what is learnt from."""

import pytest
import torch
from families import PROMPTS, family, full
from hypothesis import given
from hypothesis import strategies as st

from rlhf_images.algorithms import Scored
from rlhf_images.algorithms.grpo import GRPO
from rlhf_images.algorithms.policy_gradient import Window
from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import LoraConfig, make_trainable
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


@pytest.mark.parametrize("name", full())
@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps", "ddim"])
def test_before_the_first_update_every_ratio_is_one(name, kernel):
    pipe, config = family(name)
    generator = Generator(pipe, config)
    if kernel.endswith("sde") and not isinstance(generator.path, Rectified):
        with pytest.raises(BadInput, match="ddim or cps"):
            GRPO(kernel=kernel).drawing(generator.path)
        return
    make_trainable(generator, LoraConfig(rank=2, alpha=4), seed=0)
    algorithm = GRPO(kernel=kernel)
    policy = Policy(generator, algorithm.snapshots(), OptimizerConfig(), Processes())
    randomness = Randomness(0)
    rollout = algorithm.rollout(generator, policy.snapshots, PROMPTS, [0, 1, 2], randomness, 3)
    assert rollout.means.shape[:2] == (3, config.steps - 1)
    scored = Scored(torch.zeros(1, 3), torch.ones(1, 3).bool(), torch.tensor([[1.0, -1.0, 0.5]]), [0, 1, 2], None)
    examples = algorithm.examples(rollout, scored, generator, randomness)
    for micro in examples.split(3):
        loss, metrics = algorithm.loss(generator, policy.snapshots, NO_REWARD, micro)
        torch.testing.assert_close(metrics["ratio"], torch.ones(3), rtol=0, atol=2e-6)
        torch.testing.assert_close(metrics["kl"], torch.zeros(3), rtol=0, atol=1e-9)
        assert torch.isfinite(loss).all()


def test_outside_the_window_the_ode_is_followed():
    pipe, config = family("SD3")
    generator = Generator(pipe, config)
    algorithm = GRPO(window=Window(size=1, placed="sliding", every=1))
    for step in range(config.steps - 1):
        rollout = algorithm.rollout(generator, None, PROMPTS[:1], [0], Randomness(0, step), 1)
        assert rollout.drawn.tolist() == [[step]]
