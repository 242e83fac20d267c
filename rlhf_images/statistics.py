"""What a set of judged pictures lets us claim: means with honest intervals, and how varied a prompt's pictures are.

Pictures of one prompt resemble each other, so 240 pairs from 10 prompts are not 240 independent votes. Every interval
here resamples whole prompts (clusters), never single pairs, unless there is only one prompt; the estimate then says so.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped,unused-ignore]

LEVEL = 0.95
FLIPS = 9999
"""Sign flips of a permutation test at the most."""
DIVERSITY_SIDE = 32
"""Pictures larger than this, in pixels, are averaged down before they are compared."""
CONSTANT = 1e-6
"""A picture whose pixels deviate less than this (RMS, pixels in [0, 1]) is constant: above float32's rounding, far
below the 7e-5 that one grey level in one channel of one pixel of a 32×32 picture makes."""


@final
@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` values with its 95 % interval [``low``, ``high``] and the number of clusters they came in."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    resampled: Literal["clusters", "items"]
    """What the bootstrap drew: ``items`` only if there are fewer than two clusters; it then cannot speak of others."""


def win_rate(wins: ArrayLike, clusters: Sequence[Hashable], seed: int = 0, resamples: int = 2000) -> Estimate:
    """Return the share of pairs won, from ``wins (N,)`` of 1 (won), 0.5 (tie), 0 (lost), as `mean_estimate` does."""
    values = np.asarray(wins, dtype=np.float64)
    if not np.isin(values, (0.0, 0.5, 1.0)).all():
        raise ValueError("a pair is won (1), tied (0.5) or lost (0)")
    return mean_estimate(values, clusters, seed, resamples)


def mean_estimate(values: ArrayLike, clusters: Sequence[Hashable], seed: int = 0, resamples: int = 2000) -> Estimate:
    """Return the mean of ``values (N,)`` with a percentile bootstrap interval over whole ``clusters (N,)``.

    Differs from the plain percentile interval, which is too narrow for few clusters: the percentiles are moved outwards
    to where a t-interval of as many clusters would put them (the expanded percentile interval of Hesterberg, "What
    Teachers Should Know about the Bootstrap", 2015). No values, or one that is not finite, is a `ValueError`.
    """
    items = np.asarray(values, dtype=np.float64)
    if items.ndim != 1 or len(items) == 0 or len(items) != len(clusters):
        raise ValueError(f"values {items.shape}, {len(clusters)} clusters: expected as many of each, and some")
    if not np.isfinite(items).all():
        raise ValueError("a value is not finite: leave failures out before taking a mean")
    members = _numbered(clusters)
    count = int(members.max()) + 1
    units = members if count >= 2 else np.arange(len(items))
    sums, sizes = np.bincount(units, items), np.bincount(units)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), _percentiles(len(sums)))
    return Estimate(
        value=float(items.mean()),
        low=float(low),
        high=float(high),
        n=len(items),
        clusters=count,
        resampled="clusters" if count >= 2 else "items",
    )


@final
@dataclass(frozen=True)
class PairedTests:
    """Two-sided p-values of "no change" over ``units``: the mean change of each cluster, or of each pair if alone."""

    sign: float
    """Exact binomial test of how many rose; those without a change are left out."""
    wilcoxon: float
    """Wilcoxon's signed ranks."""
    permutation: float
    """Sign flips of the mean: all of them where that is few, else `FLIPS` drawn ones."""
    units: int


def paired_tests(differences: ArrayLike, clusters: Sequence[Hashable], seed: int = 0) -> PairedTests | None:
    """Return three tests of ``differences (N,)``, one observation a cluster; None where nothing can be tested.

    Pictures of a prompt are not independent, so a prompt counts once, whatever the number of its pictures.
    """
    values = np.asarray(differences, dtype=np.float64)
    members = _numbered(clusters)
    if len(values) != len(members) or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} differences, {len(members)} clusters: as many of each, and finite ones")
    if len(set(clusters)) >= 2:
        values = np.bincount(members, values) / np.bincount(members)
    rose, fell = int((values > 0).sum()), int((values < 0).sum())
    if len(values) < 2 or rose + fell == 0:
        return None
    flips = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        rng=np.random.default_rng(seed),
    )
    return PairedTests(
        sign=float(stats.binomtest(rose, rose + fell).pvalue),
        wilcoxon=float(stats.wilcoxon(values[values != 0]).pvalue),
        permutation=float(flips.pvalue),
        units=len(values),
    )


def diversity(images: Iterable[ArrayLike], prompts: Sequence[str]) -> float:
    """Return how different the pictures ``(N, 3, H, W)`` of one prompt are, averaged over ``prompts (N,)``.

    The definition: 1 − r, where r is Pearson's correlation over all pixels and channels of two pictures (each averaged
    by area to at most 32×32), averaged over the pairs within a prompt, then over prompts. 0 is mode collapse, about 1
    unrelated pictures, 2 the most possible. A change of brightness or contrast alone (without clipping) changes
    nothing. Two constant pictures correlate 1, a constant one with any other 0. A prompt with one picture is skipped;
    if that leaves none, or a pixel is not finite, it is a `ValueError`. A GPU tensor must be moved to the CPU first.
    """
    spreads = list(diversity_by_prompt(images, prompts).values())
    if not spreads:
        raise ValueError("diversity needs at least two pictures of one prompt")
    return float(np.mean(spreads))


def diversity_by_prompt(images: Iterable[ArrayLike], prompts: Sequence[str]) -> dict[str, float]:
    """Return the `diversity` of each prompt that has two pictures or more, in order of first appearance."""
    thumbnails = [_centred(image) for image in images]
    if len(thumbnails) != len(prompts):
        raise ValueError(f"{len(thumbnails)} pictures and {len(prompts)} prompts")
    groups: dict[str, list[NDArray[np.float64]]] = {}
    for prompt, centred in zip(prompts, thumbnails, strict=True):
        groups.setdefault(prompt, []).append(centred)
    return {prompt: _spread(np.stack(group)) for prompt, group in groups.items() if len(group) >= 2}


def distances(images: Iterable[ArrayLike], others: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Return how different each picture is from the other at its place ``(N,)``: 1 − r, as in `diversity`."""
    return np.array([_spread(np.stack([_centred(a), _centred(b)])) for a, b in zip(images, others, strict=True)])


def thumbnail(image: ArrayLike) -> NDArray[np.float64]:
    """Return picture ``(3, H, W)`` averaged by area to at most 32×32. A pixel that is not finite is a `ValueError`."""
    pixels = np.asarray(image, dtype=np.float64)
    if not np.isfinite(pixels).all():
        raise ValueError("a pixel is not finite")
    return _averaged(_averaged(pixels).swapaxes(-1, -2)).swapaxes(-1, -2)


def _numbered(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return a number for each label, equal where the labels are, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def _percentiles(units: int) -> tuple[float, float]:
    """Return the two percentiles, as fractions, that make a 95 % interval out of ``units`` independent units."""
    if units < 2:
        return 0.0, 1.0
    tail = float(ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - LEVEL) / 2)))
    return tail, 1 - tail


def _centred(image: ArrayLike) -> NDArray[np.float64]:
    """Return the thumbnail of picture ``(3, H, W)``, flat, centred, of length 1; zeros if it is constant."""
    small = thumbnail(image)
    centred = small.ravel() - small.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > CONSTANT * np.sqrt(centred.size) else np.zeros_like(centred)


def _averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``values (…, S)`` averaged by area to ``(…, min(S, 32))``: the integral's steps between the new edges."""
    size = values.shape[-1]
    if size <= DIVERSITY_SIDE:
        return values
    edges = np.linspace(0, size, DIVERSITY_SIDE + 1)
    whole = np.minimum(edges.astype(np.int64), size - 1)
    before = np.cumsum(values, axis=-1)[..., whole] - values[..., whole]
    averages: NDArray[np.float64] = np.diff(before + (edges - whole) * values[..., whole]) / np.diff(edges)
    return averages


def _spread(thumbnails: NDArray[np.float64]) -> float:
    """Return the mean of 1 − correlation over the pairs of ``thumbnails (K, D)``."""
    constant = ~thumbnails.any(axis=1)
    correlations = (thumbnails @ thumbnails.T).clip(-1, 1) + np.outer(constant, constant)
    first, second = np.triu_indices(len(thumbnails), k=1)
    return float(np.mean(1 - correlations[first, second]))
