"""The papers' losses against their own formulas in float64, and their gradients against finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_images.math import objectives
from rlhf_images.math.kernels import Gaussian
from rlhf_images.math.path import Rectified, over


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_nft_is_the_paper_s_formula_in_velocities(beta):
    """As the authors write it: v± mixed in velocity space, x0± = x_t − t·v±, self-normalised."""
    x0, eps, v, v_old = draw(4, 3, 2, 4, 4)
    t, r = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    path = Rectified()
    x = path.add_noise(x0, eps, t)
    positive, negative = beta * v + (1 - beta) * v_old, (1 + beta) * v_old - beta * v
    expected = 0.0
    for share, velocity in ((r, positive), (1 - r, negative)):
        error = x - over(t, x) * velocity - x0
        weight = error.abs().flatten(1).mean(1).clip(1e-5)
        expected = expected + share * (error**2).flatten(1).mean(1) / weight / beta
    new, old = (path.read(velocity, x, t, "flow_prediction").x0 for velocity in (v, v_old))
    torch.testing.assert_close(objectives.nft(new, old, x0, r, beta), expected, rtol=0, atol=1e-10)


def test_zero_advantage_on_policy_has_no_gradient():
    """r = ½ and new = behaviour: the pull to the positive and from the negative policy cancel exactly."""
    old, x0 = draw(2, 3, 5)
    new = old.clone().requires_grad_()
    objectives.nft(new, old, x0, torch.full((3,), 0.5, dtype=torch.float64), 1.0).sum().backward()
    assert new.grad.abs().max() < 1e-15


@pytest.mark.parametrize(("r", "towards"), [(1.0, 1), (0.0, -1)])
def test_a_good_sample_pulls_and_a_bad_one_pushes(r, towards):
    old, x0 = draw(2, 1, 8)
    new = old.clone().requires_grad_()
    objectives.nft(new, old, x0, torch.tensor([r], dtype=torch.float64), 1.0).sum().backward()
    assert torch.sign((-new.grad * (x0 - old)).sum()) == towards


def test_the_normaliser_carries_no_gradient():
    old, x0 = draw(2, 1, 8)
    new = draw(1, 8, seed=3).requires_grad_()
    objectives.nft(new, old, x0, torch.ones(1, dtype=torch.float64), 1.0).sum().backward()
    error = (new - x0).detach()
    torch.testing.assert_close(new.grad, 2 * error / error.abs().mean() / 8)


def test_optimality_is_a_probability():
    a = torch.tensor([-10.0, -5, 0, 2.5, 5, 10])
    torch.testing.assert_close(objectives.optimality(a, 5.0), torch.tensor([0, 0, 0.5, 0.75, 1, 1]))


def gaussians(seed):
    std = torch.tensor([0.3, 1.0, 0.05], dtype=torch.float64)
    mean = draw(3, 4, 5, seed=seed)
    return Gaussian(mean, std), Gaussian(mean + 0.01 * draw(3, 4, 5, seed=seed + 1), std)


def test_the_clipped_surrogate_is_ppo_s(subtests):
    for log_ratio, advantage, loss, clipped in [
        (0.0, 2.0, -2.0, 0.0),
        (math.log(1.5), 2.0, -2.4, 1.0),  # a good one already likelier by more than the clip: held
        (math.log(0.5), 2.0, -1.0, 0.0),  # a good one less likely: pulled back in full
        (math.log(1.5), -2.0, 3.0, 0.0),
        (math.log(0.5), -2.0, 1.6, 1.0),
    ]:
        with subtests.test(log_ratio=log_ratio, advantage=advantage):
            at = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
            value, held = objectives.clipped_surrogate(at, torch.tensor([advantage], dtype=torch.float64), 0.2)
            torch.testing.assert_close(value, torch.tensor([loss], dtype=torch.float64))
            assert held.tolist() == [clipped]
            value.sum().backward()
            assert bool(at.grad == 0) == bool(clipped)


def test_the_regulated_ratio_is_the_mean_shift_times_the_noise():
    behaviour, new = gaussians(3)
    z = draw(3, 4, 5, seed=9)
    found = objectives.regulated_log_ratio(new, behaviour, behaviour.draw(z))
    torch.testing.assert_close(found, ((new.mean - behaviour.mean) * z).flatten(1).mean(1), rtol=1e-9, atol=1e-14)


def test_divergence_masks_only_what_leads_further_away():
    log_ratio = torch.tensor([0.1, 0.1, -0.1, -0.1, 0.1], dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    divergence = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.5], dtype=torch.float64)
    loss, masked = objectives.divergence_masked(log_ratio, divergence, advantage, bound=1.0)
    assert masked.tolist() == [1, 0, 0, 1, 0]
    torch.testing.assert_close(loss, -advantage * log_ratio.exp() * (1 - masked))


def test_adjoint_matching_s_gradient_is_along_the_advantage():
    new, reference, old, truth = (draw(2, 3, seed=s) for s in range(4))
    strength = torch.tensor([2.0, -1.0], dtype=torch.float64)
    new.requires_grad_()
    loss = objectives.adjoint_matching(new, reference, old, truth, strength)
    target = reference + strength[:, None] * (truth - old)
    torch.testing.assert_close(loss, ((new - target) ** 2).mean(1))
    loss.sum().backward()
    torch.testing.assert_close(new.grad, 2 * (new - target).detach() / 3)


def test_diffusion_dpo_is_the_paper_s():
    errors = draw(4, 3, seed=1).abs()  # policy's and reference's error on the winner, then on the loser
    won, won_ref, lost, lost_ref = errors
    inner = -0.5 * 7.0 * ((won - won_ref) - (lost - lost_ref))
    expected = -torch.log(1 / (1 + torch.exp(-inner)))
    torch.testing.assert_close(objectives.diffusion_dpo(won - won_ref, lost - lost_ref, 7.0), expected)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 0.5), st.floats(-3, 3))
def test_gradients_are_finite_differences(seed, clip, advantage):
    behaviour, new = gaussians(seed)
    x_next, a = behaviour.draw(draw(3, 4, 5, seed=seed + 7)), torch.full((3,), advantage, dtype=torch.float64)

    def losses(mean):
        policy = Gaussian(mean, behaviour.std)
        log_ratio = policy.log_prob(x_next) - behaviour.log_prob(x_next)
        regulated = objectives.regulated_log_ratio(policy, behaviour, x_next)
        yield objectives.clipped_surrogate(log_ratio, a, clip)[0]
        yield objectives.clipped_surrogate(regulated, a, clip)[0]
        yield objectives.divergence_masked(log_ratio, policy.kl(behaviour), a, 10.0)[0]
        yield policy.kl(behaviour)
        yield objectives.adjoint_matching(mean, behaviour.mean, x_next, 2 * x_next, a)
        yield objectives.diffusion_dpo(mean[:, 0, 0], mean[:, 1, 1], 3.0)

    for number in range(6):
        torch.autograd.gradcheck(lambda m, n=number: list(losses(m))[n], (new.mean.clone().requires_grad_(),))
