"""Labelled pairs as tensors, and their division into those that teach and those that test."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array  # type: ignore[import-untyped,unused-ignore]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from rlhf_images.preferences.pairs import LabelledPair, Pairs
from rlhf_images.progress import progress
from rlhf_images.randomness import Randomness

PROMPTS_TO_SPLIT_BY = 20
"""Distinct prompts from which on a prompt is held out whole; with fewer, the pictures are."""


@final
@dataclass(frozen=True)
class Comparisons:
    """``P`` pairs of ``N`` pictures."""

    ids: list[str]
    """The id of each picture."""
    prompts: list[str]
    """The prompt of each picture."""
    left: Tensor
    right: Tensor
    """Which pictures a pair compares ``(P,)``."""
    target: Tensor
    """The share of votes for the left one ``(P,)``, a tie counting half."""
    tie: Tensor
    """The share of votes that were ties, both bad among them ``(P,)``."""
    weight: Tensor
    """How much a pair counts in the lesson ``(P,)``: less where many pairs came from one ranking."""

    def shown(self, pairs: list[int]) -> Tensor:
        """Return which pictures occur in ``pairs``, each once."""
        found: Tensor = torch.unique(torch.cat([self.left[pairs], self.right[pairs]]))
        return found


def compared(labelled: Sequence[LabelledPair]) -> Comparisons:
    """Return ``labelled`` pairs as tensors. A picture that served two prompts counts as two."""
    numbers: dict[tuple[str, str], int] = {}
    for vote in labelled:
        for picture in (vote.pair.left, vote.pair.right):
            numbers.setdefault((picture, vote.pair.prompt), len(numbers))
    return Comparisons(
        [picture for picture, _ in numbers],
        [prompt for _, prompt in numbers],
        torch.tensor([numbers[vote.pair.left, vote.pair.prompt] for vote in labelled]),
        torch.tensor([numbers[vote.pair.right, vote.pair.prompt] for vote in labelled]),
        torch.tensor([vote.preference for vote in labelled]),
        torch.tensor([(vote.tie + vote.both_bad) / vote.total for vote in labelled]),
        torch.tensor([vote.pair.weight for vote in labelled]),
    )


def pictures(pairs: Pairs, data: Comparisons, fitted: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Return every picture of ``data`` as a model sees it, in bytes ``(N, 3, S, S)``: a quarter of the memory.

    ``fitted`` brings ``(1, 3, H, W)`` in [0, 1] to the model's ``size`` S.
    """
    found = torch.empty(len(data.ids), 3, size, size, dtype=torch.uint8)
    for row, picture in enumerate(progress(data.ids, "reading pictures")):
        found[row] = (fitted(pairs.image(picture)[None])[0] * 255).round().byte()
    return found


def in_unit(pixels: Tensor) -> Tensor:
    """Return bytes as pixels in [0, 1]."""
    return pixels.float() / 255


def mean_one(data: Comparisons, train: list[int]) -> Tensor:
    """Return what every pair weighs ``(P,)``, 1 on average over the pairs ``train``."""
    weight: Tensor = data.weight / data.weight[train].mean()
    return weight


@final
@dataclass(frozen=True)
class Split:
    """Positions of the pairs that teach and of those that test; no picture and, by prompt, no prompt is in both."""

    by: Literal["prompt", "picture"]
    train: list[int]
    held_out: list[int]
    group: NDArray[np.int64]
    """The group of every pair ``(P,)``: those that must stay together, and whose errors go together."""
    hash: str
    """Of the held-out pairs' ids: two accuracies are comparable only where it is the same."""


def split(labelled: Sequence[LabelledPair], fraction: float, seed: int) -> Split:
    """Return a division that holds out about ``fraction`` of the pairs, evenly over the prompts.

    It depends on the pairs and the seed, not on their order or the votes. Pairs that share a picture (or, from
    `PROMPTS_TO_SPLIT_BY` on, a prompt) stay together; if they all do, none is held out.
    """
    by_prompt = len({vote.pair.prompt for vote in labelled}) >= PROMPTS_TO_SPLIT_BY
    group = _groups(labelled, by_prompt)
    members: dict[int, list[int]] = {}
    for position in sorted(range(len(labelled)), key=lambda position: labelled[position].pair.pair):
        members.setdefault(int(group[position]), []).append(position)
    strata: dict[str, list[list[int]]] = {}
    for pairs in members.values():
        strata.setdefault("" if by_prompt else labelled[pairs[0]].pair.prompt, []).append(pairs)
    held_out: list[int] = []
    owed = 0.0
    for number, (_, groups) in enumerate(sorted(strata.items())):
        owed += fraction * sum(map(len, groups))
        for place in Randomness(seed).permutation("split", len(groups), number):
            if len(members) > 1 and owed >= len(groups[place]) / 2:
                held_out += groups[place]
                owed -= len(groups[place])
    chosen = set(held_out)
    if len(chosen) == len(labelled):
        chosen = set()
    ids = sorted(labelled[position].pair.pair for position in chosen)
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]
    train = [position for position in range(len(labelled)) if position not in chosen]
    return Split("prompt" if by_prompt else "picture", train, sorted(chosen), group, digest)


def _groups(labelled: Sequence[LabelledPair], by_prompt: bool) -> NDArray[np.int64]:
    """Return a number for each pair ``(P,)``, the same for pairs connected by shared pictures (and prompts)."""
    nodes: dict[str, int] = {}
    edges: list[tuple[int, int]] = []
    for number, vote in enumerate(labelled):
        shared = [vote.pair.left, vote.pair.right, *([f"prompt {vote.pair.prompt}"] if by_prompt else [])]
        edges += [(number, len(labelled) + nodes.setdefault(name, len(nodes))) for name in shared]
    size = len(labelled) + len(nodes)
    rows, columns = np.array(edges).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    group: NDArray[np.int64] = connected_components(graph, directed=False)[1][: len(labelled)].astype(np.int64)
    return group
