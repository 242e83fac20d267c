"""Advantages: how far a picture is above its group. ``rewards_PK``: P prompts × K draws; ``valid_PK``: no failure.

A failed score takes no part in its group's statistics and has advantage 0. A group in which nothing can be compared
(all scores equal, or one valid) has advantage exactly 0.
"""

import torch
from torch import Tensor


def centre(rewards_PK: Tensor, valid_PK: Tensor) -> Tensor:
    """Return r − mean of the group."""
    count = valid_PK.sum(1, keepdim=True).clamp(min=1)
    known = rewards_PK.where(valid_PK, torch.zeros_like(rewards_PK))
    mean = known.sum(1, keepdim=True) / count
    centred = (known - mean).where(valid_PK, torch.zeros_like(known))
    return centred.where(~degenerate(rewards_PK, valid_PK)[:, None], torch.zeros_like(known))


def leave_one_out(rewards_PK: Tensor, valid_PK: Tensor) -> Tensor:
    """Return r − mean of the *others* in the group (RLOO): centred · n/(n−1)."""
    count = valid_PK.sum(1, keepdim=True)
    return centre(rewards_PK, valid_PK) * count / (count - 1).clamp(min=1)


def standardise(rewards_PK: Tensor, valid_PK: Tensor, *, over_all: bool = False) -> Tensor:
    """Return (r − mean of the group) / std, of the group or (``over_all``) of all valid scores of the step.

    The std is the population's (divided by n): Flow-GRPO's choice. The paper adds 1e-4 to it; we divide by it as it is,
    since a group without spread is already exactly 0.
    """
    centred = centre(rewards_PK, valid_PK)
    if over_all:
        values = rewards_PK[valid_PK]
        spread = values.std(correction=0) if len(values) else centred.new_zeros(())
        return centred / spread if bool(spread > 0) else torch.zeros_like(centred)
    spread = group_std(rewards_PK, valid_PK)[:, None]
    return torch.where(
        spread > 0, centred / spread.where(spread > 0, torch.ones_like(spread)), torch.zeros_like(centred)
    )


def group_std(rewards_PK: Tensor, valid_PK: Tensor) -> Tensor:
    """Return the ``(P,)`` standard deviations of each group's valid scores, divided by n."""
    return ((centre(rewards_PK, valid_PK) ** 2).sum(1) / valid_PK.sum(1).clamp(min=1)).sqrt()


def degenerate(rewards_PK: Tensor, valid_PK: Tensor) -> Tensor:
    """Return ``(P,)`` bool: groups whose valid scores are all equal, or fewer than two."""
    low = rewards_PK.where(valid_PK, torch.full_like(rewards_PK, torch.inf)).amin(1)
    high = rewards_PK.where(valid_PK, torch.full_like(rewards_PK, -torch.inf)).amax(1)
    return high <= low
