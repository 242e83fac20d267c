import pytest
import torch

from rlhf_images.math.path import Prediction, Rectified, VariancePreserving, over

PATHS = {
    "rectified": Rectified(),
    "variance preserving": VariancePreserving(
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    ),
}
TIMES = torch.tensor([0.001, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


@pytest.fixture
def latents():
    x0, eps = torch.randn(2, len(TIMES), 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x0, eps


def output_of(path, kind, x0, eps, t):
    """What a perfect network of each kind would say."""
    alpha, sigma = over(path.alpha(t), x0), over(path.sigma(t), x0)
    return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0, "flow_prediction": eps - x0}[kind]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_a_perfect_network_is_read_back_exactly(path, latents, kind):
    if kind == "v_prediction" and isinstance(path, Rectified):
        pytest.skip("v-prediction assumes alpha² + sigma² = 1")
    x0, eps = latents
    keep = path.alpha(TIMES) > 0 if kind == "epsilon" else TIMES > 0
    x0, eps, t = x0[keep], eps[keep], TIMES[keep]
    x = path.add_noise(x0, eps, t)
    read = path.read(output_of(path, kind, x0, eps, t), x, t, kind)
    torch.testing.assert_close(read.x0, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(read.eps, eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_any_output_reads_as_a_decomposition_of_x(path, latents, kind):
    if kind == "v_prediction" and isinstance(path, Rectified):
        pytest.skip("v-prediction assumes alpha² + sigma² = 1")
    x, output = latents
    t = TIMES.clamp(max=0.99)
    read = path.read(output, x, t, kind)
    again = over(path.alpha(t), x) * read.x0 + over(path.sigma(t), x) * read.eps
    torch.testing.assert_close(again, x, rtol=0, atol=1e-9)


def test_ends_of_the_paths(path):
    assert path.alpha(torch.zeros(1)) == 1
    assert path.sigma(torch.zeros(1)) == 0
    assert path.sigma(torch.ones(1)) > 0.99


def test_velocity_is_the_derivative_of_the_rectified_path(latents):
    x0, eps = latents
    path, t, h = Rectified(), TIMES.clamp(max=0.9), 1e-6
    difference = (path.add_noise(x0, eps, t + h) - path.add_noise(x0, eps, t)) / h
    torch.testing.assert_close(path.velocity(Prediction(x0, eps), t), difference, rtol=0, atol=1e-6)


def test_velocity_of_the_variance_preserving_path_turns_the_circle(latents):
    x0, eps = latents
    path = PATHS["variance preserving"]
    angle = torch.atan2(path.sigma(TIMES), path.alpha(TIMES))
    expected = over(torch.cos(angle), x0) * eps - over(torch.sin(angle), x0) * x0
    torch.testing.assert_close(path.velocity(Prediction(x0, eps), TIMES), expected, rtol=0, atol=1e-12)


def test_grid_times_survive_float32():
    path = PATHS["variance preserving"]
    k = torch.arange(1000)
    assert torch.equal(path.index(((k + 1) / 1000).float()) - 1, k)
