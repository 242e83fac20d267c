import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import interpolate

from rlhf_images.data import digits
from rlhf_images.statistics import (
    _percentiles,
    distances,
    diversity,
    diversity_by_prompt,
    mean_estimate,
    paired_tests,
    win_rate,
)


def pictures(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_win_rate_counts_a_tie_as_half():
    found = win_rate([1, 0.5, 0, 1], ["a", "a", "b", "b"])
    assert found.value == 0.625
    assert (found.n, found.clusters, found.resampled) == (4, 2, "clusters")
    assert found.low <= found.value <= found.high


def test_win_rate_refuses_what_is_no_outcome():
    with pytest.raises(ValueError, match="won"):
        win_rate([1, 0.3], ["a", "b"])


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [0.1, 0.2, 0.3]])
def test_mean_refuses_nothing_nan_and_a_missing_cluster(values):
    with pytest.raises(ValueError, match=r"finite|clusters"):
        mean_estimate(values, ["a", "b"] if values else [])


def test_the_interval_of_independent_values_is_students():
    values = np.random.default_rng(0).normal(3, 2, 60)
    found = mean_estimate(values, list(range(60)), resamples=20_000)
    low, high = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.04)
    assert found.high == pytest.approx(high, abs=0.04)


@pytest.mark.parametrize("units", [5, 12, 60])
def test_for_means_that_are_normal_the_percentiles_are_students(units):
    """A bootstrap mean spreads by s √((n−1)/n) / √n: at the percentiles taken it lies where Student's interval ends."""
    values = np.random.default_rng(units).normal(3, 2, units)
    spread = values.std() / np.sqrt(units)
    found = stats.norm.ppf(_percentiles(units), values.mean(), spread)
    expected = stats.t.interval(0.95, units - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_seed_gives_the_same_interval():
    values, clusters = np.random.default_rng(1).random(40), [i % 5 for i in range(40)]
    assert mean_estimate(values, clusters, seed=3) == mean_estimate(values, clusters, seed=3)
    assert mean_estimate(values, clusters, seed=3) != mean_estimate(values, clusters, seed=4)


def test_copies_within_a_cluster_add_no_certainty():
    once = mean_estimate([0, 1, 1, 0, 1], list("abcde"))
    often = mean_estimate(np.repeat([0, 1, 1, 0, 1], 50), list(np.repeat(list("abcde"), 50)))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_a_single_cluster_falls_back_to_items_and_says_so():
    found = win_rate([1, 0, 1, 1], ["only"] * 4)
    assert (found.clusters, found.resampled) == (1, "items")
    assert found.low < found.value < found.high
    assert win_rate([1], ["only"]).low == 1


def test_clustered_interval_covers_where_the_naive_one_does_not():
    random = np.random.default_rng(5)
    trials, clusters, per_cluster, truth = 300, 10, 24, 0.6
    names = np.repeat(np.arange(clusters), per_cluster).tolist()
    covered = naive = 0
    for trial in range(trials):
        rates = random.beta(truth * 4, (1 - truth) * 4, clusters)  # correlation within a cluster: 1 / (4 + 1)
        wins = (random.random((clusters, per_cluster)) < rates[:, None]).astype(float).ravel()
        found = win_rate(wins, names, seed=trial, resamples=400)
        apart = win_rate(wins, list(range(len(wins))), seed=trial, resamples=400)
        covered += found.low <= truth <= found.high
        naive += apart.low <= truth <= apart.high
    assert 0.91 <= covered / trials <= 0.985
    assert naive / trials < 0.75


def test_diversity_is_one_minus_scipys_correlation():
    images = pictures(3)
    flat = images.flatten(1).numpy()
    pairs = [1 - stats.pearsonr(flat[i], flat[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    assert diversity(images, ["p"] * 3) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_prompts_count_alike_and_single_pictures_are_skipped():
    images = pictures(6)
    first, second = diversity(images[:2], ["a"] * 2), diversity(images[2:5], ["b"] * 3)
    assert diversity(images, ["a", "a", "b", "b", "b", "alone"]) == pytest.approx((first + second) / 2)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = diversity(images[order], [["a", "a", "b", "b", "b", "alone"][i] for i in order])
    assert shuffled == pytest.approx((first + second) / 2)
    with pytest.raises(ValueError, match="two pictures"):
        diversity(images[:2], ["a", "b"])


def test_brightness_and_contrast_alone_change_nothing():
    images, labels = digits()
    images, prompts = images[:60], [str(label) for label in labels[:60].tolist()]
    assert diversity(images * 0.5 + 0.3, prompts) == pytest.approx(diversity(images, prompts), abs=1e-6)


def test_collapse_is_zero_and_blanks_are_neither_diverse_nor_nan():
    image = pictures(1)[0]
    assert diversity(torch.stack([image] * 4), ["p"] * 4) == pytest.approx(0, abs=1e-12)
    blanks = torch.stack([torch.full_like(image, level) for level in (0.0, 0.5, 1.0)])
    assert diversity(blanks, ["p"] * 3) == 0
    assert diversity(torch.stack([image, blanks[0]]), ["p"] * 2) == 1
    opposite = diversity(torch.stack([image, 1 - image]), ["p"] * 2)
    assert opposite == pytest.approx(2)


@pytest.mark.parametrize("side", [64, 50, 33])
def test_large_pictures_are_averaged_by_area(side):
    images = pictures(2, side)
    flat = interpolate(images.double(), size=32, mode="area").flatten(1).numpy()
    found = diversity(images, ["p", "p"])
    # torch's area mode rounds its windows to whole pixels, ours weighs the pixels an edge cuts
    tolerance = 1e-6 if side % 32 == 0 else 0.1
    assert found == pytest.approx(1 - stats.pearsonr(*flat).statistic, abs=tolerance)
    enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert diversity(enlarged, ["p", "p"]) == pytest.approx(found, abs=1e-9)


def test_diversity_refuses_nan_and_a_missing_prompt():
    with pytest.raises(ValueError, match="finite"):
        diversity(torch.full((2, 3, 4, 4), float("nan")), ["p", "p"])
    with pytest.raises(ValueError, match="prompts"):
        diversity(pictures(2), ["p"])


def test_paired_tests_are_scipys_on_the_means_of_prompts():
    random = np.random.default_rng(3)
    names = np.repeat(np.arange(9), 5).tolist()
    differences = random.normal(0.3, 1, 45) + np.repeat(random.normal(0, 0.5, 9), 5)
    found = paired_tests(differences, names)
    means = differences.reshape(9, 5).mean(1)
    assert found is not None
    assert found.units == 9
    assert found.sign == pytest.approx(stats.binomtest(int((means > 0).sum()), 9).pvalue, abs=1e-6)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(means).pvalue, abs=1e-6)
    signs = np.array(np.meshgrid(*[[1, -1]] * 9)).reshape(9, -1).T  # all 512 flips
    flipped = (signs * means).mean(1)
    smaller = min((flipped <= means.mean() + 1e-12).mean(), (flipped >= means.mean() - 1e-12).mean())
    assert found.permutation == pytest.approx(min(1, 2 * smaller), abs=1e-6)


def test_more_pictures_of_a_prompt_are_no_more_prompts():
    once = paired_tests([0.1, 0.2, -0.1, 0.3, 0.2], list("abcde"))
    often = paired_tests(np.repeat([0.1, 0.2, -0.1, 0.3, 0.2], 50), list(np.repeat(list("abcde"), 50)))
    assert once == often
    assert paired_tests([0.0, 0.0], ["a", "b"]) is None
    assert paired_tests([0.1], ["a"]) is None
    alone = paired_tests([0.1, 0.2, 0.3], ["a"] * 3)
    assert alone is not None
    assert alone.units == 3
    with pytest.raises(ValueError, match="finite"):
        paired_tests([np.nan, 1.0], ["a", "b"])


def test_paired_tests_are_right_five_times_in_a_hundred_where_nothing_changed():
    random = np.random.default_rng(4)
    names = np.repeat(np.arange(9), 6).tolist()
    found = [paired_tests(random.normal(0, 0.3, 54) + np.repeat(random.normal(0, 1, 9), 6), names) for _ in range(100)]
    wrong = np.mean([[t.sign < 0.05, t.wilcoxon < 0.05, t.permutation < 0.05] for t in found if t], axis=0)
    assert (wrong < 0.12).all()  # a naive test over the pictures says so in more than half


def test_diversity_by_prompt_and_distance_use_the_same_measure():
    images = pictures(4)
    found = diversity_by_prompt(images, ["a", "b", "a", "c"])
    assert list(found) == ["a"]
    assert found["a"] == pytest.approx(diversity(images[[0, 2]], ["a", "a"]))
    assert distances(images[:1], images[2:3])[0] == pytest.approx(found["a"])
    assert distances(images, images).max() == pytest.approx(0, abs=1e-12)
