"""Scoring pictures as people have them: files, bytes and PIL pictures of any size, some of which cannot be read."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from .data import decode, tensor
from .progress import progress, say
from .reward import Reward, Scores, scores_of

Picture = Image.Image | Tensor | bytes | Path | str
"""A PIL picture, a tensor ``(3, H, W)`` in [0, 1], an encoded picture, or the path of one."""
UNSCORED = "the reward has no score for it"
"""Why a picture has none that could be read."""


@final
@dataclass(frozen=True)
class Judged:
    """The ``scores`` of N pictures, and for each one that has none the reason, by its number."""

    scores: Scores
    failures: dict[int, str]


def score_pictures(
    reward: Reward,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    micro_size: int = 8,
    groups: Sequence[int] | None = None,
    told: str | None = "score",
) -> Judged:
    """Return the scores of ``pictures`` as shown on a white page, each at its own size, drawn for ``prompts``.

    Pictures of the same size are scored together, at most ``micro_size`` at a time; that changes no score. One that
    cannot be read, or that the reward fails on, is invalid with a reason. A groupwise reward wants ``groups``, the
    group of each picture; the pictures of a group must have one size and all be readable, or all of them fail.
    The progress is shown as ``told``, or not at all.
    """
    failures: dict[int, str] = {}
    found: list[tuple[list[int], Scores]] = []
    waiting: dict[tuple[Any, ...], list[tuple[int, Tensor]]] = {}
    if len(prompts) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures and {len(prompts)} prompts")
    of_group = groups if groups is not None and reward.can.groupwise else [None] * len(pictures)
    sizes = Counter(of_group)
    for row in progress(range(len(pictures)), told) if told else range(len(pictures)):
        group = of_group[row]
        try:
            image = _read(pictures[row])
        except (OSError, ValueError) as error:
            failures[row] = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            continue
        bucket = waiting.setdefault((group, *image.shape), [])
        bucket.append((row, image))
        if len(bucket) == (micro_size if group is None else sizes[group]):
            found.append(_scored(reward, waiting.pop((group, *image.shape)), prompts, micro_size, group))
        elif group is None and sum(map(len, waiting.values())) > 4 * micro_size:  # all of other sizes: make room
            found.append(_scored(reward, waiting.pop(next(iter(waiting))), prompts, micro_size, group))
    for (group, *_), bucket in waiting.items():
        if group is None:
            found.append(_scored(reward, bucket, prompts, micro_size, group))
        else:
            reason = "another picture of its group cannot be read or has another size"
            failures |= {row: reason for row, _ in bucket}
    return _joined(found, failures, len(pictures), reward)


def trl_reward(reward: Reward, micro_size: int = 8) -> Callable[..., list[float | None]]:
    """Return ``reward`` as TRL calls one: ``(prompts, completions, **columns)`` to scores, None where it failed.

    The completions are pictures. The other columns that TRL hands to every reward function are not looked at.
    """
    if reward.can.groupwise:
        raise ValueError(f"{reward.id}: needs whole groups, which TRL's reward functions are not told of")

    def scored(prompts: Sequence[str], completions: Sequence[Picture], **columns: object) -> list[float | None]:
        del columns
        judged = score_pictures(reward, completions, prompts, micro_size)
        for row, reason in judged.failures.items():
            say(f"no score for picture {row} of '{prompts[row][:60]}': {reason}")
        values, valid = judged.scores.mean.tolist(), judged.scores.valid.tolist()
        return [value if known else None for value, known in zip(values, valid, strict=True)]

    scored.__name__ = reward.id  # by which TRL names its metrics
    return scored


def _read(picture: Picture) -> Tensor:
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
            raise ValueError(f"a tensor of shape {tuple(picture.shape)} is no picture (3, H, W)")
        return picture.detach().float()
    if isinstance(picture, Image.Image):
        return tensor(picture)
    return decode(picture if isinstance(picture, bytes) else Path(picture).read_bytes())


def _scored(
    reward: Reward, bucket: list[tuple[int, Tensor]], prompts: Sequence[str], micro_size: int, group: int | None
) -> tuple[list[int], Scores]:
    rows, images = [row for row, _ in bucket], torch.stack([image for _, image in bucket])
    groups = None if group is None else [group] * len(rows)
    return rows, scores_of(reward, images, [prompts[row] for row in rows], micro_size, groups)


def _joined(found: list[tuple[list[int], Scores]], failures: dict[int, str], count: int, reward: Reward) -> Judged:
    """Return the parts in the order of the pictures; what was not scored is NaN."""
    names = {name: None for _, scores in found for name in scores.components}
    columns = {name: torch.full((count,), torch.nan) for name in ("mean", "std", *names)}
    valid = torch.zeros(count, dtype=torch.bool)
    for rows, scores in found:
        columns["mean"][rows], valid[rows] = scores.mean, scores.valid
        if scores.std is not None:
            columns["std"][rows] = scores.std
        for name, component in scores.components.items():
            columns[name][rows] = component
    unscored = {row for row in range(count) if not valid[row]} - failures.keys()
    failures |= dict.fromkeys(sorted(unscored), UNSCORED)
    std = columns.pop("std") if reward.can.uncertainty else None
    mean = columns.pop("mean")
    return Judged(Scores(mean, valid, std, {name: columns[name] for name in names}), dict(sorted(failures.items())))
