"""Random numbers that are a function of (seed, step, index, purpose): equal for equal keys, unrelated for others."""

import itertools
import math

import torch

from rlhf_images.randomness import Randomness

PURPOSES = ("sample", "sampl", "noise", "time", "1/sample", "")
INDICES = [0, 1, 2, 11, 111, 10**9]


def test_the_same_key_gives_the_same_numbers_in_any_company():
    alone = [Randomness(3, 5).normal("noise", [i], (4, 2)) for i in range(6)]
    assert torch.equal(Randomness(3, 5).normal("noise", range(6), (4, 2)), torch.cat(alone))
    assert torch.equal(Randomness(3, 5).normal("noise", [4, 1], (4, 2)), torch.cat([alone[4], alone[1]]))
    assert torch.equal(Randomness(3, 5).uniform("u", [7]), Randomness(3, 5).uniform("u", [7]))


def test_drawing_leaves_no_history_behind():
    before = torch.get_rng_state()
    randomness = Randomness(0)
    first = torch.randn(3, generator=randomness.generator("a"))
    randomness.permutation("a", 10)
    assert torch.equal(torch.randn(3, generator=randomness.generator("a")), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_thousands_of_keys_share_no_numbers():
    keys = list(itertools.product((0, 1, 2, 12), (0, 1, 2, 21, 10_000), PURPOSES, [*INDICES, *range(20, 60)]))
    drawn = {
        tuple(torch.randn(2, generator=Randomness(seed, step).generator(purpose, index)).tolist())
        for seed, step, purpose, index in keys
    }
    assert len(keys) > 5000
    assert len(drawn) == len(keys)


def test_the_numbers_of_neighbouring_keys_are_normal_and_uncorrelated():
    numbers = Randomness(0).normal("noise", range(2000), (16,)).double()
    count = numbers.numel()
    assert abs(numbers.mean()) < 4 / math.sqrt(count)
    assert abs(numbers.var() - 1) < 4 * math.sqrt(2 / count)
    assert abs((numbers**3).mean()) < 4 * math.sqrt(15 / count)
    assert abs((numbers**4).mean() - 3) < 4 * math.sqrt(96 / count)
    within = torch.distributions.Normal(0, 1).cdf(numbers).sort(0).values  # each column of draws is uniform, too
    ranks = (torch.arange(2000) + 0.5)[:, None] / 2000
    assert (within - ranks).abs().max() < 2 / math.sqrt(2000)
    for other in (numbers.roll(1, 0), Randomness(0, 1).normal("noise", range(2000), (16,)).double()):
        assert abs((numbers * other).mean()) < 4 / math.sqrt(count)


def test_uniform_numbers_fill_the_unit_interval():
    numbers = Randomness(1).uniform("u", range(4000)).double()
    assert numbers.shape == (4000,)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert (numbers.sort().values - (torch.arange(4000) + 0.5) / 4000).abs().max() < 2 / math.sqrt(4000)


def test_a_permutation_is_one_and_all_of_them_come():
    orders = [tuple(Randomness(0, step).permutation("order", 4)) for step in range(1000)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert set(orders) == set(itertools.permutations(range(4)))
    assert Randomness(0).permutation("order", 0) == []
    assert Randomness(0).permutation("order", 50, 1) != Randomness(0).permutation("order", 50, 2)


def test_a_process_without_pictures_draws_none():
    assert Randomness(0).normal("noise", [], (4, 8)).shape == (0, 4, 8)
    assert Randomness(0).uniform("time", []).shape == (0,)
