"""What every reward promises, over the table, a trained model and a user's own function."""

import sys

import pytest
import torch

import reward_models
from reward_models import REWARDS
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.errors import BadInput, RewardFailed
from rlhf_images.reward import FunctionReward, Reward

OWN = """
import torch
from rlhf_images.reward import Reward, Scores

def redness(images, prompts):
    return images[:, 0].mean((1, 2))

def too_few(images, prompts):
    return images.mean()

class Own(Reward):
    def __init__(self, sign=1.0):
        self.sign = sign

    def score(self, *, images, prompts):
        return Scores.of(self.sign * images.mean((1, 2, 3)))

instance = Own(-1.0)
number = 3

def factory():
    return Own(2.0)

def bad_factory():
    return 3

def failing_factory():
    raise RuntimeError("no GPU\\nhere")
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    (tmp_path / "my_own_rewards.py").write_text(OWN)
    (tmp_path / "my_broken_rewards.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield
    for name in ("my_own_rewards", "my_broken_rewards"):
        sys.modules.pop(name, None)


@pytest.fixture(params=[*REWARDS, "trained", "function"])
def reward(request) -> Reward:
    if request.param == "trained":
        return reward_models.load(str(request.getfixturevalue("trained")))
    if request.param == "function":
        request.getfixturevalue("own_file")
        return reward_models.load("my_own_rewards:redness")
    return reward_models.load(request.param)


@pytest.fixture
def batch() -> tuple[torch.Tensor, list[str]]:
    images, labels = digits(16)
    return images[100:108].clone(), [DIGIT_CAPTIONS[i] for i in labels[100:108]]


def test_one_float_a_picture(reward, batch):
    images, prompts = batch
    scores = reward.score(images=images, prompts=prompts)
    assert scores.mean.shape == scores.valid.shape == (8,)
    assert scores.mean.dtype == torch.float32
    assert scores.valid.dtype == torch.bool
    assert scores.valid.all()


def test_order_does_not_matter(reward, batch):
    images, prompts = batch
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    straight = reward.score(images=images, prompts=prompts).mean
    shuffled = reward.score(images=images[order], prompts=[prompts[i] for i in order]).mean
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-5, atol=1e-5)


def test_company_does_not_matter(reward, batch):
    images, prompts = batch
    together = reward.score(images=images, prompts=prompts).mean
    alone = [reward.score(images=images[i : i + 1], prompts=prompts[i : i + 1]).mean[0] for i in range(8)]
    torch.testing.assert_close(torch.stack(alone), together, rtol=1e-5, atol=1e-5)


def test_repeats_itself_and_touches_no_generator(reward, batch):
    images, prompts = batch
    before = torch.get_rng_state()
    scores = [reward.score(images=images, prompts=prompts).mean for _ in range(2)]
    assert torch.equal(*scores)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_only_where_promised(reward, batch):
    images, prompts = batch
    images.requires_grad_(True)
    scores = reward.score(images=images, prompts=prompts)
    if reward.can.differentiable:
        (gradient,) = torch.autograd.grad(scores.mean.sum(), images)
        assert torch.isfinite(gradient).all()
        assert (gradient.abs().amax((1, 2, 3)) > 0).all()
    elif not isinstance(reward, FunctionReward):  # a user's function may have a gradient without promising one
        assert not scores.mean.requires_grad


def test_failure_is_reported_and_stays_alone(reward, batch):
    images, prompts = batch
    whole = reward.score(images=images, prompts=prompts)
    images[3] = torch.nan
    scores = reward.score(images=images, prompts=prompts)
    assert scores.valid.tolist() == [i != 3 for i in range(8)]
    torch.testing.assert_close(scores.mean[scores.valid], whole.mean[scores.valid], rtol=1e-5, atol=1e-5)


def test_any_size(reward, batch):
    images, prompts = batch
    larger = torch.nn.functional.interpolate(images, size=40, mode="bicubic", antialias=True).clamp(0, 1)
    assert reward.score(images=larger, prompts=prompts).valid.all()


@pytest.mark.parametrize(
    ("attribute", "factor"), [("redness", 1.0), ("Own", 1.0), ("instance", -1.0), ("factory", 2.0)]
)
def test_a_users_own_file(own_file, batch, attribute, factor):
    images, prompts = batch
    scores = reward_models.load(f"my_own_rewards:{attribute}").score(images=images, prompts=prompts)
    torch.testing.assert_close(scores.mean, factor * images.mean((1, 2, 3)))


def test_a_function_must_give_one_score_a_picture(own_file, batch):
    images, prompts = batch
    with pytest.raises(RewardFailed, match="one score a picture"):
        reward_models.load("my_own_rewards:too_few").score(images=images, prompts=prompts)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("blod", "did you mean 'bold'?"),
        ("qqqq", "known: bold, legibility"),
        ("runs/nowhere", "no such name, folder"),
        ("my_own_rewards:rednes", "did you mean 'redness'?"),
        ("my_own_rewards:number", "is a int, neither"),
        ("my_own_rewards:bad_factory", "gives a int, not a Reward"),
        ("my_own_rewards:failing_factory", "RuntimeError: no GPU here"),
        ("my_broken_rewards:anything", "a_package_that_is_not_there"),
        ("no_such_file:anything", "ModuleNotFoundError"),
        ("my_own_rewards:", "no such name"),
        ("../evil:x", "no such name"),
    ],
)
def test_anything_else_is_refused_in_one_line(own_file, spec, says):
    with pytest.raises(BadInput) as refusal:
        reward_models.load(spec)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_current_directory_shadows_no_installed_package(own_file, tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('shadowed')\n")
    reward_models.load("my_own_rewards:redness")
    assert sys.path[0] != str(tmp_path)
