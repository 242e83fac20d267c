"""What ``label --doubts-of`` asks first: reward models say how much a vote on each pair would teach."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from .errors import BadInput
from .pictures import score_pictures
from .preferences import Pairs, PreferencePair
from .preferences.order import most_informative_first, telling_first
from .progress import progress
from .reward import Reward

BATCH = 8
"""Pairs whose pictures are held at once."""
By = Literal["d_optimal", "disagreement"]


def doubtful_first(pairs: Pairs, rewards: Mapping[str, Reward], by: By | None = None) -> list[str]:
    """Return the ids of ``pairs``, first those that ``rewards`` would learn most from; see `order`.

    By ``d_optimal`` where there is one reward and it has a posterior, by ``disagreement`` otherwise, unless told. Pairs
    that cannot be read, or that a reward cannot judge, are left out.
    """
    for name, reward in rewards.items():
        if reward.can.groupwise:
            raise BadInput(f"{name}: scores groups of pictures, and a pair has none; choose another")
    posterior = len(rewards) == 1 and all(reward.can.posterior for reward in rewards.values())
    if by == "d_optimal" and not posterior:
        raise BadInput(
            "--by d_optimal: wants one reward model with a posterior, such as the family 'head' of train-reward"
        )
    unread = pairs.unreadable(pairs.pairs)
    judged = [pair for pair in pairs.pairs if pair.pair not in unread]
    if posterior and by != "disagreement":
        return _most_informative_first(pairs, judged, *next(iter(rewards.items())))
    return _disagreed_first(pairs, judged, rewards)


def _disagreed_first(pairs: Pairs, judged: list[PreferencePair], rewards: Mapping[str, Reward]) -> list[str]:
    """Return the pairs that divide the ``rewards`` and leave them undecided first.

    A reward's chance for the left picture is the logistic function of the difference of its two scores, in units of
    their root mean square over the round.
    """
    differences = torch.stack([_differences(pairs, judged, name, reward) for name, reward in rewards.items()])
    known = _known(differences.isfinite().all(0), pairs, rewards)
    differences = differences[:, known]
    size = differences.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    chances = torch.sigmoid(differences / size).double().numpy()
    return telling_first([pair for pair, use in zip(judged, known.tolist(), strict=True) if use], chances)


def _most_informative_first(pairs: Pairs, judged: list[PreferencePair], name: str, reward: Reward) -> list[str]:
    """Return the pairs whose votes the posterior of ``reward`` would narrow most by; those with a vote come last."""
    voted = {vote.pair for vote in pairs.store.votes()} | {pair.pair for pair in judged if pair.counts.total}
    fresh = [pair for pair in judged if pair.pair not in voted]
    margin, between = torch.zeros(0), torch.zeros(0, 1)
    if fresh:
        margin = _differences(pairs, fresh, name, reward)
        parts = [fresh[start : start + BATCH] for start in range(0, len(fresh), BATCH)]
        between = torch.cat([_between(pairs, part, reward) for part in progress(parts, f"posterior of {name}")])
    known = margin.isfinite() & between.isfinite().all(1)
    if fresh:
        known = _known(known, pairs, {name: reward})
    told = expected_information(margin[known], between[known])
    order = most_informative_first([pair for pair, use in zip(fresh, known.tolist(), strict=True) if use], told.numpy())
    return [*order, *(pair.pair for pair in judged if pair.pair in voted)]


def expected_information(margin: Tensor, between: Tensor) -> Tensor:
    """Return √E[p (1 − p)] · Σ^½ x for each pair ``(P, K)``, given its ``margin (P,)`` and Σ^½ x, ``between (P, K)``.

    The expectation is over the posterior, as a vote on a pair of which little is known tells less than it would if its
    margin were the true one. By MacKay's (1992) approximation of the logistic function's mean under a Gaussian, with
    κ = 1 / √(1 + π/8 |Σ^½ x|²) it is κ c (1 − c) for c = σ(κ · margin): the slope of the chance that the posterior
    gives on the whole.
    """
    kappa = (1 + math.pi / 8 * between.square().sum(1)).rsqrt()
    chance = torch.sigmoid(kappa * margin)
    return (kappa * chance * (1 - chance)).sqrt()[:, None] * between


def _known(known: Tensor, pairs: Pairs, rewards: Mapping[str, Reward]) -> Tensor:
    if not bool(known.any()):
        raise BadInput(f"--doubts-of {' '.join(rewards)}: no pair in {pairs.folder} can be judged by all of them")
    return known


def _differences(pairs: Pairs, judged: list[PreferencePair], name: str, reward: Reward) -> Tensor:
    """Return the score of each left picture less that of the right one ``(P,)``; NaN where either failed."""
    sides = [[(getattr(pair, side), pair.prompt) for pair in judged] for side in ("left", "right")]
    place = {shown: row for row, shown in enumerate(dict.fromkeys(sides[0] + sides[1]))}
    paths = [pairs.folder / "images" / f"{picture}.png" for picture, _ in place]
    scores = score_pictures(reward, paths, [prompt for _, prompt in place], told=f"doubts of {name}").scores
    left, right = (
        scores.mean.masked_fill(~scores.valid, torch.nan)[[place[shown] for shown in side]] for side in sides
    )
    return left - right


def _between(pairs: Pairs, batch: list[PreferencePair], reward: Reward) -> Tensor:
    """Return Σ^½ (x_left − x_right) of each pair ``(B, K)``."""
    sides = []
    for side in ("left", "right"):
        images = [pairs.image(getattr(pair, side)) for pair in batch]
        found: dict[int, Tensor] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            rows = [row for row, image in enumerate(images) if image.shape == shape]
            stacked, prompts = torch.stack([images[row] for row in rows]), [batch[row].prompt for row in rows]
            found |= dict(zip(rows, reward.doubts(images=stacked, prompts=prompts).float().cpu(), strict=True))
        sides.append(torch.stack([found[row] for row in range(len(batch))]))
    return sides[0] - sides[1]
