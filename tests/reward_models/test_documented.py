"""What docs/reward_models.md shows and says, done."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import reward_models
from reward_models import REWARDS

TEXT = (Path(__file__).parents[2] / "docs" / "reward_models.md").read_text(encoding="utf-8")


def test_your_own_in_ten_lines(tmp_path, monkeypatch):
    (shown,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in shown.splitlines() if line.strip()]) <= 10
    (tmp_path / "my_rewards.py").write_text(shown)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    images = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    reward = reward_models.load("my_rewards:Redness@0.5")
    scores = reward.score(images=images, prompts=["x"] * 3)
    torch.testing.assert_close(scores.mean, -(images[:, 0].mean((1, 2)) - 0.5).abs())
    assert reward.can.differentiable
    scores.mean.sum().backward()
    assert (images.grad[:, 0] != 0).all()
    assert reward_models.load("my_rewards:Redness").wanted == 1


def test_every_reward_of_the_table_is_described():
    described = set(re.findall(r"`([a-z0-9_]+)(?:@[^`]*)?`", TEXT))
    assert set(REWARDS) - {"bold", "legibility"} <= described


def test_the_mixture_is_a_config():
    (shown,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    mixture = yaml.safe_load(shown)["reward"]
    named = {name: weight for name, weight in mixture.items() if not name.startswith("runs/")}
    assert reward_models.load(named).weights == named


@pytest.mark.parametrize("link", re.findall(r"\]\(\.\./([^)]+)\)", TEXT))
def test_links_lead_somewhere(link):
    assert (Path(__file__).parents[2] / link).exists()
