"""Signs that a model, or the accuracy that is told of it, must not be believed: each a line that says what to do."""

import json
import math
from collections.abc import Sequence

import torch
from scipy.stats import binomtest, chi2  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from rlhf_images.preferences.summary import AnnotatorSummary

from .comparisons import Comparisons, Split

LEVEL = 1e-3
"""Of the test that sides were chosen at random."""
LEANING = 0.1
"""How far from ½ the share of the left side may be, however sure that is."""
ALIKE = 0.02
"""Distance of two pictures' evidence, in units of that of two pictures drawn at random, below which they are copies."""
COPIES = 0.02
"""Share of the held-out pictures with a copy among those that taught, above which the accuracy is in doubt: two at
least, one may be chance."""
COLUMNS = 16
"""Numbers of evidence below which pictures may well agree in all of them: the answers to a checklist do."""
CHUNK = 512
MANY = 8
"""People, from which on they are not listed."""


def dead_head(score_std: float, train_nll: float) -> str | None:
    """Return the sign of a head that learnt nothing: constant scores, or a loss that is still a guess's, ln 2."""
    if score_std < 1e-4:
        return f"dead head: the scores of the training pictures differ by only {score_std:.1e}; do not use this model"
    if abs(train_nll - math.log(2)) < 1e-3:
        return f"dead head: the loss on the training pairs is a guess's, {train_nll:.4f} (ln 2); do not use this model"
    return None


def position_leak(data: Comparisons, people: Sequence[AnnotatorSummary]) -> list[str]:
    """Return who answers by the side: on the screen, or, in the pairs as they are written, all votes together."""
    leaning = [one for one in people if (share := one.left_share) is not None and _leans(share.count, share.n)]
    others = [one.annotator for one in people if one.votes and one not in leaning]
    names = json.dumps(others, ensure_ascii=False) if len(others) < MANY else "[…], a list of the others"
    without = f", or train without them: annotator={names}" if others else ""
    found = [
        f"position leak: '{one.annotator}' chose the left of the screen in {one.left_share.value:.0%} of"
        f" {one.left_share.n} answers; look at their votes{without}"
        for one in leaning
        if one.left_share is not None
    ]
    decided = data.target[data.target != 0.5]
    left = int((decided > 0.5).sum())
    if not found and _leans(left, len(decided)):
        found.append(
            f"position leak: the left picture won {left / len(decided):.0%} of {len(decided)} pairs; this model cannot"
            " see sides, but whatever put the winners there may show in the pictures, such as their format or source"
        )
    return found


def group_leak(evidence: Tensor | None, data: Comparisons, split: Split) -> str | None:
    """Return that pictures held out are copies of those that taught, by the ``evidence (N, D)`` the model has of them.

    The split keeps equal files and, from twenty prompts on, equal prompts together; a picture saved twice escapes it.
    None is told where `tells_copies` is false.
    """
    if evidence is None or not tells_copies(evidence, data, split):
        return None
    taught, tested = data.shown(split.train), data.shown(split.held_out)
    x = (evidence - evidence.mean(0)).float()
    usual = float((2 * x.square().sum(1).mean()).sqrt())
    nearest = [torch.cdist(x[part], x[taught]).amin(1) for part in tested.split(CHUNK)]
    copies = int((torch.cat(nearest) < ALIKE * usual).sum())
    if copies <= max(1, COPIES * len(tested)):
        return None
    return (
        f"group leak: {copies} of {len(tested)} held-out pictures look like one that was learnt from, to this model;"
        " take copies out of the pairs, or do not believe the held-out accuracy"
    )


def tells_copies(evidence: Tensor | None, data: Comparisons, split: Split) -> bool:
    """Return whether pictures that agree in their ``evidence (N, D)`` are copies, and do not agree by chance.

    By chance two of Gaussian evidence do, in as many directions as really vary: (Σ σ²)² / Σ σ⁴ over its singular
    values σ.
    """
    if evidence is None or evidence.shape[1] < COLUMNS or not split.held_out:
        return False
    x = (evidence - evidence.mean(0)).float()
    power = float(x.square().sum())
    if power == 0:
        return False
    directions = power**2 / float((x.T @ x).square().sum())
    chance = float(chi2.cdf(ALIKE**2 * directions, directions))
    return len(data.shown(split.train)) * chance <= COPIES / 2


def _leans(count: int, n: int) -> bool:
    return n > 0 and abs(count / n - 0.5) > LEANING and float(binomtest(count, n).pvalue) < LEVEL
