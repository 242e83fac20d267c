"""DDPO's per-prompt statistics against numpy, and what a resumed run remembers."""

import numpy as np
import torch

from rlhf_images.prompt_statistics import PromptStatistics, StatisticsConfig

PROMPTS = ["a", "b"]


def test_few_scores_are_compared_with_the_step_and_many_with_the_prompt_s_own():
    statistics = PromptStatistics(StatisticsConfig(buffer=6, min_count=4))
    steps = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.ones(2, 2).bool()
    seen = {prompt: [] for prompt in PROMPTS}
    for number, rewards in enumerate(steps):
        found = statistics.advantages(PROMPTS, rewards, valid)
        for row, prompt in enumerate(PROMPTS):
            seen[prompt] += rewards[row].tolist()
            values = np.array(seen[prompt][-6:]) if number else rewards.numpy()
            np.testing.assert_allclose(found[row], (rewards[row].numpy() - values.mean()) / values.std(), rtol=1e-12)


def test_a_failed_score_is_neither_remembered_nor_compared():
    statistics = PromptStatistics(StatisticsConfig(buffer=4, min_count=2))
    rewards, valid = torch.tensor([[1.0, 99.0, 3.0]]), torch.tensor([[True, False, True]])
    torch.testing.assert_close(statistics.advantages(["a"], rewards, valid), torch.tensor([[-1.0, 0.0, 1.0]]))
    nothing = torch.zeros(1, 3).bool()
    assert torch.equal(statistics.advantages(["a"], rewards, nothing), torch.zeros(1, 3))
    assert statistics.state == {"a": [1.0, 3.0]}


def test_no_spread_is_exactly_zero_and_a_restored_one_goes_on_alike():
    first, second = (PromptStatistics(StatisticsConfig(buffer=3, min_count=2)) for _ in range(2))
    constant = torch.full((2, 2), 0.1)
    assert torch.equal(first.advantages(PROMPTS, constant, torch.ones(2, 2).bool()), torch.zeros(2, 2))
    second.restore(first.state)
    rewards = torch.tensor([[0.0, 1.0], [2.0, 2.0]])
    results = [s.advantages(PROMPTS, rewards, torch.ones(2, 2).bool()) for s in (first, second)]
    assert torch.equal(*results)
    tenth = torch.tensor(0.1).item()
    assert first.state == second.state == {"a": [tenth, 0.0, 1.0], "b": [tenth, 2.0, 2.0]}


def test_buffers_of_different_lengths_are_each_their_own():
    statistics = PromptStatistics(StatisticsConfig(buffer=4, min_count=3))
    statistics.restore({"a": [5.0, 6.0, 7.0], "b": [1.0]})
    rewards, valid = torch.tensor([[8.0], [3.0]], dtype=torch.float64), torch.ones(2, 1).bool()
    expected = [(8 - 6.5) / np.std([5, 6, 7, 8]), (3 - 5.5) / np.std([8, 3])]
    np.testing.assert_allclose(statistics.advantages(PROMPTS, rewards, valid)[:, 0], expected, rtol=1e-12)
