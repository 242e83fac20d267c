"""From a taught model to its card: everything is measured here, the same for every family."""

import torch
from torch import Tensor

from rlhf_images.errors import BadInput
from rlhf_images.preferences.events import Whose, counts
from rlhf_images.preferences.summary import Summary

from .alarms import dead_head, group_leak, position_leak, tells_copies
from .bias import Leaning, probe
from .card import TIES, Card, Measured, SplitCard
from .cross_validation import choose
from .davidson import Votes, prior_variance, reduced
from .family import Lesson, Taught
from .learning_curve import LearningCurve, learning_curve
from .measures import agreement, by_annotator, by_criterion, calibration, calibration_by_chance, tie_curve

PROBED = 60
"""Pairs at most, whose pictures the bias probe looks at."""


def card_of(
    family: str,
    taught: Taught,
    lesson: Lesson,
    summary: Summary,
    ceiling: float | None,
    annotator: Whose,
    edited: int,
) -> Card:
    """Return the card of ``taught``; ``summary`` is that of the round, ``edited`` how many pictures are edited."""
    data, division, score, seed = lesson.data, lesson.split, taught.score, lesson.seed
    held_out, group = division.held_out, division.group
    learnt = agreement(score, data, division.train, group, seed)
    tested = agreement(score, data, held_out, group, seed) if held_out else None
    shown = score[data.shown(division.train)]
    spread = round(float(shown.std(correction=0)), 6)
    voted = torch.tensor([float(one.total) for one in lesson.labelled])
    accuracy = tested.accuracy if tested else None
    calibrated = calibration(score, data, held_out) if held_out else None
    votes = list(lesson.pairs.store.votes(annotator))
    people = [person for person in summary.annotators if counts(person.annotator, annotator)]
    alarms = [dead_head(spread, learnt.nll), *position_leak(data, people), group_leak(taught.evidence, data, division)]
    looked_for = ["dead head", "position leak"]
    if tells_copies(taught.evidence, data, division):
        looked_for.append("group leak")
    return Card(
        family=family,
        held_out_accuracy=accuracy,
        held_out_accuracy_ci=tested.interval if tested else None,
        ceiling=ceiling,
        accuracy_of_ceiling=round(accuracy / ceiling, 6) if accuracy is not None and ceiling else None,
        pairs_train=len(division.train),
        pairs_held_out=len(held_out),
        pairs_held_out_tied=len(held_out) - tested.decided if tested else 0,
        ties=TIES,
        split=SplitCard(division.by, len(set(group[held_out].tolist())), division.hash),
        nll=tested.nll if tested else None,
        ece=calibrated[0] if calibrated else None,
        ece_by_chance=calibration_by_chance(score, data, held_out, voted) if calibrated else None,
        train_accuracy=learnt.accuracy,
        train_nll=learnt.nll,
        score_std=spread,
        score_mean=round(float(shown.mean()), 6),
        head={name: round(weight, 4) for name, weight in taught.tastes.items()},
        told=dict(taught.told),
        alarms=[alarm for alarm in alarms if alarm],
        looked_for=looked_for,
        measured=Measured(
            calibration=calibrated[1] if calibrated else [],
            tie_curve=tie_curve(score, data, held_out),
            by_annotator=by_annotator(score, data, held_out, lesson.labelled, votes, group, seed),
            by_criterion=by_criterion(score, data, held_out, lesson.labelled, group, seed),
            learning_curve=_curve(taught, lesson),
            bias=_leanings(taught, lesson, edited) if edited else {},
        ),
    )


def _curve(taught: Taught, lesson: Lesson) -> LearningCurve | None:
    """Return the learning curve on the model's evidence, under its own ridge or one chosen on the training pairs."""
    if taught.evidence is None:
        return None
    data, train = lesson.data, lesson.split.train
    x = taught.evidence.double()
    spread = taught.spread
    if spread is None:
        difference = reduced(x[data.left[train]] - x[data.right[train]])[1]
        votes = Votes.of(data)[train]
        spread = choose(difference, votes, lesson.split.group[train], prior_variance(x), lesson.seed).spread
    return learning_curve(x, data, lesson.split.group, spread, lesson.seed)


def _leanings(taught: Taught, lesson: Lesson, edited: int) -> dict[str, Leaning]:
    """Return what the model leans on, on held-out pairs where there are enough, else on any."""
    data = lesson.data
    enough = len(lesson.split.held_out) >= min(20, len(data.target))
    among = lesson.split.held_out if enough else list(range(len(data.target)))
    shown: list[tuple[int, Tensor, Tensor]] = []
    for pair in among[:: max(1, len(among) // PROBED)][:PROBED]:
        try:
            left, right = (lesson.pairs.image(data.ids[int(side[pair])]) for side in (data.left, data.right))
        except BadInput:
            continue  # its features were kept, the file was not
        shown.append((pair, left, right))
    if not shown:
        return {}
    pairs, lefts, rights = zip(*shown, strict=True)
    prompts = [data.prompts[int(data.left[pair])] for pair in pairs]
    return probe(taught.model, lefts, rights, prompts, data.target[list(pairs)], edited)
