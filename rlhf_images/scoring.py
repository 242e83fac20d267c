"""Scores of a batch that lies on several processes: each scores its own pictures, and everybody knows all scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .processes import Processes
from .reward import Reward, Scores, scores_of


def gathered_scores(
    reward: Reward,
    images: Tensor,
    index: Sequence[int],
    prompts: Sequence[str],
    groups: Sequence[int],
    processes: Processes,
    micro_size: int,
) -> Scores:
    """Return the scores of all N pictures, the same on every process, on the CPU; ``mean`` is NaN where one failed.

    ``images (B, 3, H, W)`` are this process's, ``index`` their numbers among the N ``prompts`` and ``groups``. Groups
    may straddle processes: a groupwise reward sees the whole of every group that this process has a part of.
    """
    total, rows = len(prompts), list(index)
    if reward.can.groupwise and processes.count > 1:
        touched = {groups[row] for row in index}
        rows = [row for row in range(total) if groups[row] in touched]
        images = processes.shared(images, index, total)[rows].to(images.device)
    asked = [prompts[row] for row in rows]
    with processes.agreed():
        scores = scores_of(reward, images, asked, micro_size, [groups[row] for row in rows])
    place = {row: i for i, row in enumerate(rows)}
    names = processes.names(scores.components)  # where every picture failed there may be none
    unknown = torch.full_like(scores.mean, torch.nan)
    stds = [unknown if scores.std is None else scores.std] if reward.can.uncertainty else []
    parts = [scores.components.get(name, unknown) for name in names]
    own = torch.stack([scores.mean, *stds, *parts], 1)[[place[row] for row in index]]
    mean, *columns = processes.shared(own, index, total).unbind(1)
    std = columns.pop(0) if stds else None
    return Scores.of(mean, std, dict(zip(names, columns, strict=True)))
