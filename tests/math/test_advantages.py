import numpy as np
import pytest
import torch

from rlhf_images.math import advantages

ALL = {
    "centre": advantages.centre,
    "leave_one_out": advantages.leave_one_out,
    "group": advantages.standardise,
    "global": lambda r, v: advantages.standardise(r, v, over_all=True),
}


@pytest.fixture(params=ALL)
def function(request):
    return ALL[request.param]


def rewards(seed=0, P=5, K=6, missing=0.2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(P, K, generator=generator, dtype=torch.float64)
    return values, torch.rand(P, K, generator=generator) >= missing


def test_against_numpy():
    r, _ = rewards()
    v = torch.ones_like(r, dtype=torch.bool)
    a = r.numpy()
    centred = a - a.mean(1, keepdims=True)
    others = (a.sum(1, keepdims=True) - a) / (a.shape[1] - 1)
    np.testing.assert_allclose(advantages.centre(r, v), centred)
    np.testing.assert_allclose(advantages.standardise(r, v), centred / a.std(1, keepdims=True))
    np.testing.assert_allclose(advantages.standardise(r, v, over_all=True), centred / a.std())
    np.testing.assert_allclose(advantages.leave_one_out(r, v), a - others)


def test_groups_sum_to_zero_and_failures_count_for_nothing(function):
    for seed in range(20):
        r, v = rewards(seed)
        a = function(r, v)
        torch.testing.assert_close(a.sum(1), torch.zeros(5, dtype=a.dtype), rtol=0, atol=1e-9)
        assert not a[~v].any()
        garbage = r.where(v, torch.full_like(r, torch.nan))
        torch.testing.assert_close(function(garbage, v), a)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6, -3.3])
def test_nothing_to_compare_is_exactly_zero(function, constant):
    r = torch.full((3, 7), constant)
    assert not function(r, torch.ones(3, 7, dtype=torch.bool)).any()
    one = torch.zeros(3, 7, dtype=torch.bool)
    one[:, 2] = True
    assert not function(torch.randn(3, 7), one).any()
    assert not function(torch.randn(3, 7), torch.zeros(3, 7, dtype=torch.bool)).any()


def test_permuting_a_group_permutes_its_advantages(function):
    r, v = rewards()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(function(r[:, order], v[:, order]), function(r, v)[:, order])


def test_shift_of_a_prompt_and_scale_of_all(function):
    r, v = rewards()
    shifted = r + torch.arange(5, dtype=r.dtype)[:, None]
    if function is not ALL["global"]:
        torch.testing.assert_close(function(shifted, v), function(r, v))
    factor = 1 if function in (ALL["group"], ALL["global"]) else 10
    torch.testing.assert_close(function(10 * r, v), factor * function(r, v))
