import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rlhf_images.math import kernels
from rlhf_images.math.kernels import Gaussian
from rlhf_images.math.path import Prediction, Rectified, VariancePreserving, over

FLOW = Rectified()
VP = VariancePreserving(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def flow_step():
    """``x, velocity, prediction, t, t_next`` of three samples on the rectified path."""
    x, v = draw(2, 3, 4, 5)
    t = torch.tensor([0.95, 0.6, 0.2], dtype=torch.float64)
    return x, v, FLOW.read(v, x, t, "flow_prediction"), t, t - torch.tensor([0.05, 0.2, 0.1], dtype=torch.float64)


def test_log_prob_and_kl_are_means_of_torch_s_own():
    a = Gaussian(draw(3, 4, 5), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64))
    b = Gaussian(draw(3, 4, 5, seed=1), torch.tensor([0.5, 0.7, 3.0], dtype=torch.float64))
    x = draw(3, 4, 5, seed=2)
    p, q = (Normal(g.mean, over(g.std, g.mean).expand_as(g.mean)) for g in (a, b))
    torch.testing.assert_close(a.log_prob(x), p.log_prob(x).flatten(1).mean(1))
    torch.testing.assert_close(a.kl(b), kl_divergence(p, q).flatten(1).mean(1))
    assert torch.equal(a.kl(a), torch.zeros(3, dtype=torch.float64))


def test_kl_has_a_gradient():
    mean = draw(2, 3).requires_grad_()
    std = torch.ones(2, dtype=torch.float64)
    Gaussian(mean, std).kl(Gaussian(torch.zeros(2, 3, dtype=torch.float64), std)).sum().backward()
    torch.testing.assert_close(mean.grad, mean.detach() / 3)


def test_draws_have_the_gaussian_s_moments():
    g = Gaussian(torch.full((1, 200_000), 2.0), torch.tensor([0.5]))
    x = g.draw(torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)))
    assert abs(x.mean().item() - 2) < 0.01
    assert abs(x.std().item() - 0.5) < 0.01


def test_ode_is_euler_on_the_rectified_path(flow_step):
    x, v, prediction, t, t_next = flow_step
    g = kernels.ode(FLOW, prediction, x, t, t_next)
    torch.testing.assert_close(g.mean, x + over(t_next - t, x) * v)
    assert not g.std.any()


def test_flow_sde_is_flow_grpo_s_formula(flow_step):
    x, v, prediction, t, t_next = flow_step
    g = kernels.flow_sde(0.7)(FLOW, prediction, x, t, t_next)
    s, dt = over(0.7 * (t / (1 - t)).sqrt(), x), over(t_next - t, x)
    sigma = over(t, x)
    mean = x * (1 + s**2 * dt / (2 * sigma)) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
    torch.testing.assert_close(g.mean, mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(over(g.std, x), s * (-dt).sqrt(), rtol=0, atol=1e-14)


def test_flow_sde_is_finite_from_pure_noise_to_the_last_step():
    times = torch.linspace(1, 0, 11, dtype=torch.float64)
    x = draw(1, 4)
    for t, t_next in itertools.pairwise(times):
        prediction = FLOW.read(draw(1, 4, seed=1), x, t[None], "flow_prediction")
        g = kernels.flow_sde(0.7)(FLOW, prediction, x, t[None], t_next[None])
        assert torch.isfinite(g.log_prob(g.draw(draw(1, 4, seed=2)))).all()
        at_one = 0.7 * (1 / (1 - t_next)).sqrt() * (t - t_next).sqrt() if t == 1 else g.std
        torch.testing.assert_close(g.std, at_one.reshape(1))


def test_dance_sde_is_dance_grpo_s_formula(flow_step):
    x, v, prediction, t, t_next = flow_step
    g = kernels.dance_sde(0.3)(FLOW, prediction, x, t, t_next)
    sigma, dt = over(t, x), over(t_next - t, x)
    x0 = x - sigma * v
    score = -(x - (1 - sigma) * x0) / sigma**2
    torch.testing.assert_close(g.mean, x + v * dt - 0.5 * 0.3**2 * score * dt, rtol=0, atol=1e-14)
    torch.testing.assert_close(g.std, 0.3 * (t - t_next).sqrt())


def test_cps_is_its_paper_s_formula(flow_step):
    x, v, prediction, t, t_next = flow_step
    g = kernels.cps(0.8)(FLOW, prediction, x, t, t_next)
    s = t_next * math.sin(0.8 * math.pi / 2)
    x0, x1 = x - over(t, x) * v, x + over(1 - t, x) * v
    mean = over(1 - t_next, x) * x0 + over((t_next**2 - s**2).sqrt(), x) * x1
    torch.testing.assert_close(g.mean, mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(g.std, s)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers_own_step(eta):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", timestep_spacing="leading")
    scheduler.set_timesteps(10)
    path = VariancePreserving(scheduler.alphas_cumprod)
    x, output, noise = draw(3, 1, 3, 4, 4).float()
    for k in scheduler.timesteps[:-1]:
        expected = scheduler.step(output, k, x, eta=eta, variance_noise=noise if eta else None).prev_sample
        t, t_next = ((k + 1)[None] / 1000, (k - 100 + 1)[None] / 1000)
        g = kernels.ddim(eta)(path, path.read(output, x, t, "epsilon"), x, t, t_next)
        torch.testing.assert_close(g.draw(noise), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "kernel"),
    [
        (FLOW, kernels.ode),
        (FLOW, kernels.cps(0.8)),
        (VP, kernels.ode),
        (VP, kernels.cps(0.8)),
        (VP, kernels.ddim(1.0)),
        (FLOW, kernels.ddim(1.0)),
    ],
    ids=["flow ode", "flow cps", "vp ode", "vp cps", "vp ddim", "flow ddim"],
)
def test_ancestral_steps_keep_the_marginal(path, kernel):
    """With the true x0 and eps, mean² + std² of the noise part is sigma'² exactly."""
    t, t_next = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    x0, eps = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    g = kernel(path, Prediction(x0, eps), path.add_noise(x0, eps, t), t, t_next)
    torch.testing.assert_close(g.mean[0] ** 2 + g.std**2, path.sigma(t_next) ** 2)
