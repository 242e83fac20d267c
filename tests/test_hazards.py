"""The numerical hazards of this literature, each with the test that would see it; those without another home are here.

next x rounded to 16 bits, its log-probability not
    test_before_the_first_update_every_ratio_is_exactly_one,
    test_half_precision_keeps_latents_in_float32_and_replays_exactly
rollout and training in other batches
    test_another_micro_size_than_the_rollout_s_leaves_the_ratio_at_one
a KL built without gradient
    test_the_kl_alone_has_a_gradient, test_kl_has_a_gradient
sums for means, dropped constants; a KL without dt or 1/2σ²
    test_log_prob_and_kl_are_means_of_torch_s_own, test_cps_is_its_paper_s_formula, test_flow_sde_is_flow_grpo_s_formula
biased and unbiased std, epsilons, constant groups
    test_nothing_to_compare_is_exactly_zero, test_against_numpy
integers through a gather of floats
    test_large_integers_survive_sharing
padded or repeated pictures of an evaluation counted
    test_slices_are_a_partition, test_processes_change_nothing
a window of its own for each picture
    test_the_window_is_that_of_the_step
text lengths that differ between rollout and training
    test_replayed_predictions_are_the_sampled_ones, test_a_batch_is_its_pictures_one_by_one
last steps with next to no noise, or none
    test_flow_sde_is_finite_from_pure_noise_to_the_last_step, test_no_log_probability_is_infinite
gradients that vanish in float16
    test_a_mean_over_many_examples_does_not_vanish_in_half_precision
one dtype for all families
    test_half_precision_keeps_latents_in_float32_and_replays_exactly, test_one_step_of_every_tuning_config
old, averaged and reference weights lost at a resume
    test_every_algorithm_continues_as_if_never_stopped
arithmetic that changes where it is counted, in another step of a continued run
    test_the_step_that_is_counted_computes_what_others_do
guidance distilled away, unseen
    test_a_run_on_pairs_is_evaluated_with_and_without_guidance
saving by the main process alone hangs, or moves random numbers
    test_processes_change_nothing
"""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import PROMPTS, family
from hypothesis import given
from hypothesis import strategies as st

from rlhf_images.algorithms import Scored
from rlhf_images.algorithms.grpo import GRPO
from rlhf_images.algorithms.policy_gradient import Window
from rlhf_images.algorithms.rwr import RWR
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import LoraConfig, make_trainable
from rlhf_images.policy import OptimizerConfig, Policy
from rlhf_images.processes import Processes
from rlhf_images.randomness import Randomness
from rlhf_images.reward import FunctionReward

NO_REWARD = FunctionReward(lambda images, prompts: 1 / 0)


def test_every_hazard_names_tests_that_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    named = re.findall(r"\btest_\w+", __doc__)
    assert len(named) >= 20
    assert [name for name in named if f"\ndef {name}(" not in text] == []


def rolled(name, algorithm, dtype="float32"):
    pipe, config = family(name)
    generator = Generator(pipe.to(getattr(torch, dtype)), dataclasses.replace(config, dtype=dtype))
    make_trainable(generator, LoraConfig(rank=2, alpha=4), seed=0)
    policy = Policy(generator, algorithm.snapshots(), OptimizerConfig(), Processes())
    rollout = algorithm.rollout(generator, policy.snapshots, PROMPTS, [0, 1, 2], Randomness(0), 3)
    scores = torch.tensor([[1.0, -1.0, 0.5]])
    scored = Scored(scores, torch.ones(1, 3).bool(), scores, [0, 1, 2], None)
    return policy, rollout, algorithm.examples(rollout, scored, generator, Randomness(0))


@pytest.mark.parametrize("name", ["SD1.5", "SD3", "FLUX.1"])
def test_another_micro_size_than_the_rollout_s_leaves_the_ratio_at_one(name):
    algorithm = GRPO()
    policy, _, examples = rolled(name, algorithm)
    for micro in examples.split(1):
        _, metrics = algorithm.loss(policy.generator, policy.snapshots, NO_REWARD, micro)
        torch.testing.assert_close(metrics["ratio"], torch.ones(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps", "ddim"])
def test_no_log_probability_is_infinite(kernel):
    policy, rollout, examples = rolled("SD3", GRPO(kernel=kernel))
    del policy
    assert rollout.stds.min() > 0
    assert torch.isfinite(examples.behaviour.log_prob(examples.x_next)).all()


def test_large_integers_survive_sharing():
    large = torch.tensor([2**24 + 1, 2**53 + 1])
    assert Processes().shared(large, [1, 0], 2).tolist() == large.tolist()[::-1]
    near = [Randomness(0).normal("noise", [index], (4,)) for index in (2**53, 2**53 + 1)]
    assert not torch.equal(*near)


@given(total=st.integers(0, 200), count=st.integers(1, 17))
def test_slices_are_a_partition(total, count):
    def mine(rank):
        return list(Processes.mine(SimpleNamespace(rank=rank, count=count), total))

    assert [row for rank in range(count) for row in mine(rank)] == list(range(total))


@pytest.mark.parametrize("placed", ["first", "random", "sliding"])
def test_the_window_is_that_of_the_step(placed):
    window = Window(size=2, placed=placed, every=1)
    for step in range(5):
        pipe, config = family("SD3")
        rollout = GRPO(window=window).rollout(
            Generator(pipe, config), None, PROMPTS, [7, 8, 30], Randomness(3, step), 1
        )
        assert rollout.drawn.tolist() == [list(window.steps(config.steps, Randomness(3, step)))] * 3
        if placed == "first":
            break


def test_a_mean_over_many_examples_does_not_vanish_in_half_precision():
    """A share of a millionth of a picture's loss, through a network in float16: as in float32, but for its rounding."""
    gradients = {}
    for dtype in ("float32", "float16"):
        policy, _, examples = rolled("SD3", RWR(times_per_image=1), dtype)
        before = {name: value.detach().clone() for name, value in policy.parameters.items()}
        policy.config = dataclasses.replace(policy.config, max_grad_norm=1e9)
        policy.update(RWR(times_per_image=1), NO_REWARD, examples, 10**6, 3, {})
        gradients[dtype] = torch.cat([p.grad.flatten() for p in policy.parameters.values() if p.grad is not None])
        assert any(not torch.equal(before[name], value) for name, value in policy.parameters.items())
    whole, half = gradients["float32"], gradients["float16"]
    assert 0 < whole.abs().max() < 1e-5
    assert float((half - whole).norm() / whole.norm()) < 0.1
