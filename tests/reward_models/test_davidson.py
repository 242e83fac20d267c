"""The head's mathematics against closed forms: derivatives, minima, the posterior, the calibration."""

import math

import choix
import numpy as np
import pytest
import torch

from reward_models.cross_validation import choose, fold_of, ridge_of
from reward_models.davidson import Newton, Votes, chances, curvatures, losses, slopes, tie_width
from reward_models.posterior import Posterior


def drawn(count: int, columns: int, seed: int = 0, width: float = 0.0, scale: float = 3.0):
    """Differences of independent features, a taste, and one vote a pair that follows Davidson's model."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(count, columns, generator=source, dtype=torch.float64) * 2**0.5
    taste = torch.randn(columns, generator=source, dtype=torch.float64)
    d = x @ (taste * scale / taste.norm())
    left, tie = chances(d, width)
    u = torch.rand(count, generator=source, dtype=torch.float64)
    tied = ((u >= left) & (u < left + tie)).double()
    return x, d, Votes((u < left).double() + tied / 2, tied, torch.ones(count, dtype=torch.float64))


def soft(count: int, seed: int = 0) -> Votes:
    """Any shares of votes, any weights."""
    source = torch.Generator().manual_seed(seed)
    shares = torch.rand(count, 3, generator=source, dtype=torch.float64) + 0.05
    shares /= shares.sum(1, keepdim=True)
    return Votes(shares[:, 0] + shares[:, 1] / 2, shares[:, 1], torch.rand(count, generator=source).double() + 0.2)


@pytest.mark.parametrize("width", [0.0, 0.4, 3.0])
def test_three_chances_add_up_and_favour_nobody(width):
    d = torch.linspace(-60, 60, 121, dtype=torch.float64)
    left, tie = chances(d, width)
    right = chances(-d, width)[0]
    torch.testing.assert_close(left + tie + right, torch.ones_like(d), rtol=0, atol=1e-14)
    assert left[60] == right[60] == pytest.approx(1 / (2 + width))
    decided = left[50:71] / (left + right)[50:71]
    torch.testing.assert_close(decided, torch.sigmoid(d[50:71]))  # d is the log-odds among the decided votes


@pytest.mark.parametrize("width", [0.0, 0.7])
def test_loss_slope_and_curvature_are_those_of_the_formula(width):
    votes = soft(50)
    if width == 0:
        votes = Votes(votes.target, torch.zeros(50, dtype=torch.float64), votes.weight)
    d = torch.linspace(-8, 8, 50, dtype=torch.float64)
    left, tie = chances(d, width)
    told = votes.target - votes.tie / 2, 1 - votes.target - votes.tie / 2
    expected = -told[0] * left.log() - told[1] * chances(-d, width)[0].log()
    expected = expected - (votes.tie * tie.log() if width else 0)
    torch.testing.assert_close(losses(d, width, votes), expected)
    h = 1e-5
    rise = (losses(d + h, width, votes) - losses(d - h, width, votes)) / (2 * h)
    torch.testing.assert_close(slopes(d, width, votes), rise, rtol=1e-7, atol=1e-9)
    bend = (slopes(d + h, width, votes) - slopes(d - h, width, votes)) / (2 * h)
    torch.testing.assert_close(curvatures(d, width), bend, rtol=1e-7, atol=1e-9)


def test_gradient_and_hessian_against_finite_differences():
    x, votes = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double(), soft(40)
    w, width, h = torch.linspace(-1, 1, 5, dtype=torch.float64), 0.6, 1e-6
    solver = Newton(x, votes)
    for i in range(5):
        ends = [w + sign * h * torch.eye(5, dtype=torch.float64)[i] for sign in (1, -1)]
        values = [float((votes.weight * losses(x @ end, width, votes)).sum()) for end in ends]
        assert float(solver.gradient(x @ w, width)[i]) == pytest.approx((values[0] - values[1]) / (2 * h), abs=1e-6)
        slope = (solver.gradient(x @ ends[0], width) - solver.gradient(x @ ends[1], width)) / (2 * h)
        torch.testing.assert_close(solver.hessian(x @ w, width)[i], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ties", [True, False])
def test_newton_ends_at_the_minimum_from_anywhere_and_for_every_ridge(ties):
    x, votes = drawn(300, 12, width=0.0)[0], soft(300)
    if not ties:
        votes = Votes(votes.target, torch.zeros(300, dtype=torch.float64), votes.weight)
    solver = Newton(x, votes)
    start = None
    for ridge in (1e3, 10.0, 0.1, 1e-4):
        fit = start = solver.fit(ridge, start)
        d = x @ fit.weights
        assert float((solver.gradient(d, fit.width) + ridge * fit.weights).abs().max()) < 1e-4
        fresh = Newton(x, votes).fit(ridge)
        torch.testing.assert_close(fit.weights, fresh.weights, rtol=1e-5, atol=1e-6)
        tie = chances(d, fit.width)[1]
        assert float((votes.weight * tie).sum()) == pytest.approx(float((votes.weight * votes.tie).sum()), rel=1e-2)
    assert (fit.width > 0) == ties


@pytest.mark.parametrize("ridge", [0.02, 1.0])
def test_without_ties_and_features_it_is_choixs_bradley_terry(ridge):
    """Each picture a feature of its own: then w are the strengths. choix's penalty is α Σ w², ours half of that."""
    draw = np.random.default_rng(0)
    wins = [tuple(draw.choice(6, 2, replace=False).tolist()) for _ in range(80)]
    single = torch.eye(6, dtype=torch.float64)
    x = torch.stack([single[winner] - single[loser] for winner, loser in wins])
    won = torch.ones(len(wins), dtype=torch.float64)
    fit = Newton(x, Votes(won, 0 * won, won)).fit(ridge)
    expected = choix.opt_pairwise(6, wins, alpha=ridge / 2, tol=1e-12)
    torch.testing.assert_close(fit.weights, torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_one_pair_has_a_closed_form():
    """σ(−2w)·2 = ridge·w for one pair with difference 2 that was won."""
    votes = Votes(*(torch.tensor([v], dtype=torch.float64) for v in (1.0, 0.0, 1.0)))
    w = float(Newton(torch.tensor([[2.0]]), votes).fit(0.3).weights[0])
    assert 2 / (1 + math.exp(2 * w)) == pytest.approx(0.3 * w, rel=1e-5)


def test_separable_votes_and_nothing_but_ties_stay_finite():
    x = torch.tensor([[1.0], [2.0]])
    ones = torch.ones(2, dtype=torch.float64)
    assert torch.isfinite(Newton(x, Votes(ones, 0 * ones, ones)).fit(1e-6).weights).all()
    tied = Newton(x, Votes(ones / 2, ones, ones)).fit(1.0)
    assert float(tied.weights.abs().max()) < 1e-8
    assert 3 < tied.width < 1e6


def test_the_tie_width_is_found_again():
    _, d, votes = drawn(20_000, 8, width=0.8)
    assert tie_width(d, votes) == pytest.approx(0.8, rel=0.05)
    assert tie_width(d, Votes(votes.target.round(), 0 * d, votes.weight)) == 0


def test_the_posterior_is_the_dense_formula():
    x, _, votes = drawn(60, 7)
    solver = Newton(x, votes)
    fit = solver.fit(2.0)
    hessian = solver.hessian(x @ fit.weights, fit.width)
    dense = torch.linalg.inv(hessian + 2.0 * torch.eye(7, dtype=torch.float64))
    found = torch.randn(9, 7, generator=torch.Generator().manual_seed(3)).double()
    posterior = Posterior.of(hessian, 2.0, None, 7)
    torch.testing.assert_close(posterior.std(found), (found @ dense * found).sum(1).sqrt())
    factors = posterior.factors(found)
    torch.testing.assert_close(factors @ factors.T, found @ dense @ found.T)
    torch.testing.assert_close(posterior.scaled(0.5).std(found), posterior.std(found) / 2)


def test_what_is_well_known_under_a_wide_prior_keeps_its_digits_in_float32():
    """As a score's doubt is computed, after many votes on few features: the prior is a million times as wide."""
    root = torch.randn(7, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    hessian = 1e3 * root @ root.T
    dense = torch.linalg.inv(hessian + 1e-3 * torch.eye(7, dtype=torch.float64))
    found = torch.randn(50, 7, generator=torch.Generator().manual_seed(3))
    std = Posterior.of(hessian, 1e-3, None, 7).to("cpu", torch.float32).std(found).double()
    torch.testing.assert_close(std, (found.double() @ dense * found).sum(1).sqrt(), rtol=2e-3, atol=0)


def test_a_posterior_in_fewer_directions_keeps_the_best_known_ones_and_the_trace():
    x, _, votes = drawn(60, 7)
    hessian = Newton(x, votes).hessian(torch.zeros(60, dtype=torch.float64), 0.0)
    dense = torch.linalg.inv(hessian + 2.0 * torch.eye(7, dtype=torch.float64))
    cut = Posterior.of(hessian, 2.0, None, 3)
    assert float(cut.variance.sum()) + 4 * cut.rest == pytest.approx(float(dense.trace()))
    torch.testing.assert_close(cut.std(cut.basis).square(), (cut.basis @ dense * cut.basis).sum(1))
    assert float(cut.variance.max()) < cut.rest


def test_more_features_than_pairs_change_nothing_but_the_cost():
    """In the span of the differences the fit and the posterior are those in full; outside it the prior stands."""
    source = torch.Generator().manual_seed(1)
    x, votes = torch.randn(6, 15, generator=source).double(), soft(6)
    full = Newton(x, votes)
    fit = full.fit(0.7)
    span, inner = torch.linalg.qr(x.T)
    small = Newton(inner.T, votes)
    reduced = small.fit(0.7)
    torch.testing.assert_close(span @ reduced.weights, fit.weights, rtol=1e-5, atol=1e-7)
    whole = Posterior.of(full.hessian(x @ fit.weights, fit.width), 0.7, None, 15)
    found = torch.randn(5, 15, generator=source).double()
    for keep in (6, 15):
        part = Posterior.of(small.hessian(inner.T @ reduced.weights, reduced.width), 0.7, span, keep)
        torch.testing.assert_close(part.std(found), whole.std(found), rtol=1e-5, atol=1e-7)
    assert part.rest == pytest.approx(1 / 0.7)


@pytest.mark.parametrize("groups", [2, 7, 40])
def test_folds_keep_a_group_together_and_are_about_equal(groups):
    group = np.random.default_rng(groups).integers(0, groups, 200)
    fold = np.array(fold_of(group, 5, 0))
    assert all(len(set(fold[group == name])) == 1 for name in set(group.tolist()))
    if groups == 40:
        assert np.bincount(fold, minlength=5).min() >= 30
        assert fold_of(group, 5, 1) != fold.tolist()
    assert fold_of(group, 5, 0) == fold.tolist()


def test_scores_that_are_too_sure_or_too_modest_are_brought_to_log_odds():
    """Whatever the spread that is forced on the fit, the temperature makes its scores mean what happens."""
    x, _, votes = drawn(1500, 8, seed=2)
    group = np.arange(1500)
    temperatures = []
    for spread in (0.1, 0.3, 3.0):
        chosen = choose(x, votes, group, 8.0, 0, spread)
        margins = chosen.margins / chosen.temperature
        expected = chances(margins, 0.0)[0]
        assert float((margins * (expected - votes.target)).mean()) == pytest.approx(0, abs=0.01)
        sure = torch.maximum(expected, 1 - expected)
        right = torch.where(expected > 0.5, votes.target, 1 - votes.target)
        assert float(right.mean()) == pytest.approx(float(sure.mean()), abs=0.03)
        temperatures.append(chosen.temperature)
    assert temperatures[0] < temperatures[1] < temperatures[2]
    assert chosen.spread == 3.0


def test_the_spread_is_that_of_the_taste_and_noise_makes_it_small():
    x, _, votes = drawn(600, 8, seed=1, scale=4.0)
    assert 2 <= choose(x, votes, np.arange(600), 8.0, 0).spread <= 12
    guessed = Votes(
        (torch.rand(600, generator=torch.Generator().manual_seed(0)) < 0.5).double(), votes.tie, votes.weight
    )
    assert choose(x, guessed, np.arange(600), 8.0, 0).spread <= 0.4
    alone = choose(x, votes, np.zeros(600, dtype=np.int64), 8.0, 0)
    assert (alone.spread, alone.temperature, alone.folds, alone.margins) == (1.0, 1.0, 0, None)
    few = choose(x[:9], votes[list(range(9))], np.arange(9), 8.0, 0)
    assert (few.spread, few.folds) == (1.0, 0)  # and not 32, as nine votes that happen to agree would have it


def test_a_ridge_too_strong_by_far_is_not_taken_for_the_best():
    """One feature says all, but hardly varies; six vary a lot and say nothing: so strong a ridge sees the six alone.

    With less of it unseen votes are told worse and worse, until the seventh is seen. Votes that were asked for because
    they are close calls are like that.
    """
    source = torch.Generator().manual_seed(3)
    left = (torch.rand(80, generator=source) < 0.5).double()
    side = left - 0.5
    idle = torch.randn(80, 6, generator=source).double()
    idle -= side[:, None] * (side @ idle) / (side @ side)
    x = torch.cat([idle, 0.2 * side[:, None]], 1)
    votes, group = Votes(left, 0 * left, torch.ones_like(left)), np.arange(80)
    told = [
        float(losses(choose(x, votes, group, 7.0, 0, spread).margins, 0.0, votes).mean()) for spread in (1 / 16, 0.5, 8)
    ]
    assert told[1] > told[0] + 0.01 > told[2] + 0.01
    assert choose(x, votes, group, 7.0, 0).spread >= 8


@pytest.mark.parametrize(("count", "wanted"), [(50, 0.72), (200, 0.84), (800, 0.91)])
def test_a_taste_is_recovered(count, wanted):
    """A small version of benchmarks/reward_heads.py: features of falling variance, as embeddings have."""
    accuracies = []
    for seed in range(3):
        source = torch.Generator().manual_seed(seed)
        turned = torch.linalg.qr(torch.randn(64, 64, generator=source, dtype=torch.float64))[0]
        falling = torch.arange(1, 65, dtype=torch.float64) ** -0.5
        pictures = torch.randn(2, count + 2000, 64, generator=source, dtype=torch.float64) * falling @ turned
        pictures /= pictures.std((0, 1))
        taste = torch.randn(64, generator=source, dtype=torch.float64)
        x = pictures[0] - pictures[1]
        d = x @ taste * 4 / (pictures @ taste).std()
        left = (torch.rand(count, generator=source) < torch.sigmoid(d[:count])).double()
        votes = Votes(left, 0 * left, torch.ones_like(left))
        chosen = choose(x[:count], votes, np.arange(count), 64.0, 0)
        fit = Newton(x[:count], votes).fit(ridge_of(chosen.spread, 64.0))
        accuracies.append(float(((x[count:] @ fit.weights > 0) == (d[count:] > 0)).double().mean()))
    assert np.mean(accuracies) >= wanted
