import pytest
import torch

from rlhf_images.math import objectives
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
