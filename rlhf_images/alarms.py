"""The alarms: signs that a rising reward is being gamed, looked for in the evaluations of a run while it goes on.

They are a function of the whole series on disk, not of a state: after a resume, or years later, they are the same. Each
says what was seen, in which pictures, and what to do. Silence means that what is listed here was not seen, no more.

The limits were calibrated by planting hacks in real series, and by runs without any (docs/alarms.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from . import recorded, signs
from .files import write_json
from .recorded import Recorded
from .statistics import diversity, mean_estimate

FILE = "alarms.json"
"""Where a run keeps its alarms, beside its evaluations."""
REWARD = "reward"
"""The judge that is trained on."""
DRIFT = 3.0
"""Standard deviations of the base's pictures of a prompt by which a sign's mean may move."""
SCALE = 0.75
"""Share of its mean that a sign of `SCALES` may fall to, or rise to the inverse of: where pictures differ much among
themselves, they can all lose a quarter of their contrast within `DRIFT`."""
SCALES = ("brightness", "contrast", "edges", "crispness", "saturation")
"""Signs that have a natural nought."""
FAINT = 0.02
"""Added to a sign's means before their ratio is taken: twice nearly nothing is nearly nothing."""
OVERLAY = 0.25
"""Strength, against the pictures' own texture, of a pattern that all of them share and the base's do not."""
COLLAPSED = 0.7
"""Share of the base's diversity within a prompt that is the least to accept."""
WORSE = 0.2
"""Standard deviations of the base's scores by which a held-out judge must fall before anybody minds."""
UNSURE = 2.0
"""Times the base's, by which the reward's uncertainty of the pictures may grow."""
BEYOND = 0.2
"""Share of pictures that may score above all that anybody ever labelled."""
RUNNING = 2
"""Evaluations in a row that must show a sign."""
SPLIT = 3
"""Evaluations in a row in which the reward rises and a held-out judge falls."""
VISIBLE = 0.004
"""Standard deviation, of a picture's grey values in [0, 1], below which nobody sees a difference: one step of 256."""
SHOWN = 8
"""Pictures that an alarm points to."""


@final
@dataclass(frozen=True)
class Alarm:
    """What was seen at the evaluation after ``step`` steps. ``rows`` are the kept pictures that show it most."""

    name: str
    step: int
    seen: str
    remedy: str
    rows: tuple[int, ...]


@final
@dataclass(frozen=True)
class _Finding:
    """What one evaluation shows: a sentence, and how much of it each picture has ``(N,)``."""

    seen: str
    telling: NDArray[np.float64]


Check = Callable[[Sequence[Recorded], int], _Finding | None]
"""From the series and the number of an evaluation in it, to what is wrong there."""

LOOKS: dict[str, tuple[str, ...]] = {
    "darkening or blanking": ("brightness", "dark_share", "light_share", "contrast", "entropy"),
    "structure lost or over-sharpened": ("edges", "crispness"),
    "noise or a grid": ("roughness", "fine_share"),
    "colour": ("saturation", "red_green", "yellow_blue"),
}
"""The alarms of a picture's looks, and the signs of each."""


def alarms(series: Sequence[Recorded]) -> list[Alarm]:
    """Return what has to be told of a run's evaluations, the base's (step 0) first, in the order in which it came up.

    An alarm that is up is not raised again before it has been down.
    """
    if not series or series[0].step != 0:
        return []
    raised = []
    for name, (check, running, remedy) in CHECKS.items():
        findings = [check(series, number) for number in range(len(series))]
        up = [
            number + 1 >= running and all(findings[number + 1 - running : number + 1]) for number in range(len(series))
        ]
        for number in range(1, len(series)):
            finding = findings[number]
            if finding is not None and up[number] and not up[number - 1]:
                raised.append(
                    Alarm(name, series[number].step or 0, finding.seen, remedy, _rows(series[number], finding))
                )
    return sorted(raised, key=lambda alarm: alarm.step)


def last_quiet(series: Sequence[Recorded], raised: Sequence[Alarm]) -> int | None:
    """Return the step of the last evaluation before the first sign of any alarm; None where none was ``raised``."""
    steps = [seen.step or 0 for seen in series]
    places = [steps.index(alarm.step) - CHECKS[alarm.name][1] for alarm in raised]
    return steps[max(0, min(places))] if places else None


def write_alarms(run: Path) -> list[Alarm]:
    """Look at the evaluations in folder ``run``, write what was found to `FILE` there, and return it."""
    found = alarms(recorded.of_run(run))
    write_json(run / FILE, [asdict(alarm) for alarm in found])
    return found


def drifts(now: Recorded, base: Recorded) -> dict[str, NDArray[np.float64]]:
    """Return by how much each sign of each picture ``(N,)`` has moved since the base's picture of the same row.

    In standard deviations of the base's pictures of one prompt: what other noise does to a picture.
    """
    rows = min(now.count, base.count)
    names = np.arange(rows) % len(base.names)
    moved = {}
    for name, before in base.signs.items():
        within = before[:rows] - (np.bincount(names, before[:rows]) / np.bincount(names))[names]
        moved[name] = (now.signs[name][:rows] - before[:rows]) / max(float(within.std()), VISIBLE)
    return moved


def _rows(now: Recorded, finding: _Finding) -> tuple[int, ...]:
    kept = [row for row in now.kept if row < len(finding.telling) and np.isfinite(finding.telling[row])]
    return tuple(sorted(kept, key=lambda row: -finding.telling[row])[:SHOWN])


def _looks(names: tuple[str, ...]) -> Check:
    def check(series: Sequence[Recorded], number: int) -> _Finding | None:
        now, base = series[number], series[0]
        moved = {name: drift for name, drift in drifts(now, base).items() if name in names}
        ratios = {name: _ratio(now, base, name) for name in names if name in SCALES}
        far = {name: f"{drift.mean():+.1f} sd" for name, drift in moved.items() if abs(drift.mean()) > DRIFT}
        far |= {name: f"× {r:.2f}" for name, r in ratios.items() if not SCALE <= r <= 1 / SCALE and name not in far}
        if not far:
            return None
        worst = max(far, key=lambda name: abs(moved[name].mean()))
        by = ", ".join(f"{name.replace('_', ' ')} {change}" for name, change in far.items())
        return _Finding(f"{by}, against the base's pictures of a prompt", moved[worst] * np.sign(moved[worst].mean()))

    return check


def _ratio(now: Recorded, base: Recorded, name: str) -> float:
    rows = min(now.count, base.count)
    return float((now.signs[name][:rows].mean() + FAINT) / (base.signs[name][:rows].mean() + FAINT))


def _overlay(series: Sequence[Recorded], number: int) -> _Finding | None:
    now, base = series[number], series[0]
    mean, before = now.mean, base.mean
    if mean.shape != before.shape:
        return None
    strength = signs.overlay(torch.from_numpy(mean), torch.from_numpy(before), base.texture)
    if strength <= OVERLAY:
        return None
    ours, theirs = now.thumbnails, base.thumbnails
    rows = min(now.count, base.count)
    shares = ((ours[:rows] - theirs[:rows]) * (ours.mean(0) - theirs.mean(0))).sum((1, 2, 3))
    return _Finding(f"one pattern over all pictures, {strength:.2f} times as strong as their own texture", shares)


def _collapse(series: Sequence[Recorded], number: int) -> _Finding | None:
    seen, thumbnails = series[number], series[number].thumbnails
    now, base = diversity(thumbnails, seen.prompts), diversity(series[0].thumbnails, series[0].prompts)
    if now >= COLLAPSED * base:
        return None
    names = np.arange(seen.count) % len(seen.names)
    centres = np.stack([thumbnails[names == name].mean(0) for name in range(len(seen.names))])[names]
    near = -np.square(thumbnails - centres).mean((1, 2, 3))
    return _Finding(f"the pictures of a prompt keep {now / base:.0%} of the base's diversity", near)


def _worse(series: Sequence[Recorded], number: int) -> _Finding | None:
    now, base = series[number], series[0]
    for judge in _held_out(now):
        change = _change(now, base, judge)
        if _fell(change, now, base, judge):
            mean, before = np.nanmean(now.scores[judge]), np.nanmean(base.scores[judge])
            return _Finding(f"the held-out judge '{judge}' fell from {before:.3f} to {mean:.3f}", -change)
    return None


def _split(series: Sequence[Recorded], number: int) -> _Finding | None:
    if number < SPLIT:
        return None
    part = series[number - SPLIT : number + 1]
    rewards = [float(np.nanmean(seen.scores[REWARD])) for seen in part if REWARD in seen.scores]
    if len(rewards) < len(part) or not all(np.diff(rewards) > 0):
        return None
    for judge in _held_out(part[-1]):
        means = [float(np.nanmean(seen.scores[judge])) for seen in part]
        change = _change(part[-1], part[0], judge)
        if all(np.diff(means) < 0) and _fell(change, part[-1], series[0], judge):
            told = f"over {SPLIT} evaluations the reward rose from {rewards[0]:.3f} to {rewards[-1]:.3f}"
            return _Finding(
                f"{told} and the held-out judge '{judge}' fell from {means[0]:.3f} to {means[-1]:.3f}", -change
            )
    return None


def _unsure(series: Sequence[Recorded], number: int) -> _Finding | None:
    now, base = series[number].stds.get(REWARD), series[0].stds.get(REWARD)
    if now is None or base is None or np.nanmean(now) <= UNSURE * np.nanmean(base):
        return None
    times = float(np.nanmean(now) / np.nanmean(base))
    return _Finding(f"the reward is {times:.1f} times as unsure of the pictures as of the base's", now)


def _beyond(series: Sequence[Recorded], number: int) -> _Finding | None:
    now, highest = series[number], series[number].highest_labelled
    if highest is None or REWARD not in now.scores:
        return None
    scores = now.scores[REWARD][np.isfinite(now.scores[REWARD])]
    if not len(scores):
        return None
    share = float(np.mean(scores > highest))
    if share <= BEYOND:
        return None
    return _Finding(f"{share:.0%} of the pictures score above all that were ever labelled", now.scores[REWARD])


def _runaway(series: Sequence[Recorded], number: int) -> _Finding | None:
    """Two faces: as far in one evaluation as in all before it, and most of the reward's gain lost in one."""
    if number < SPLIT:
        return None
    gone = [recorded.distance(seen, series[0]) for seen in series[number - 1 : number + 1]]
    rewards = [float(np.nanmean(seen.scores[REWARD])) for seen in series[: number + 1] if REWARD in seen.scores]
    change = np.linalg.norm(
        (series[number].thumbnails - series[number - 1].thumbnails).reshape(series[number].count, -1), axis=1
    )
    if gone[0] > FAR and gone[1] > 2 * gone[0]:
        return _Finding(f"the pictures went from {gone[0]:.2f} to {gone[1]:.2f} away from the base's at once", change)
    gained = max(rewards[:-1]) - rewards[0] if rewards else 0.0
    if gained > 0 and rewards[-2] - rewards[-1] > gained / 2:
        fall = _change(series[number], series[number - 1], REWARD)
        if _fell(fall, series[number], series[0], REWARD):
            return _Finding(f"the reward fell from {rewards[-2]:.3f} to {rewards[-1]:.3f} at once", -fall)
    return None


FAR = 0.02
"""Distance from the base (1 − correlation) below which doubling it is no runaway."""


def _held_out(seen: Recorded) -> list[str]:
    return [name for name in seen.scores if name != REWARD]


def _change(now: Recorded, before: Recorded, judge: str) -> NDArray[np.float64]:
    """Return the change ``(N,)`` of a judge's score of each row; NaN where it failed on either."""
    rows = min(now.count, before.count)
    change: NDArray[np.float64] = now.scores[judge][:rows] - before.scores[judge][:rows]
    return change


def _fell(change: NDArray[np.float64], now: Recorded, base: Recorded, judge: str) -> bool:
    """Return whether a judge fell for certain, and by more than nothing."""
    return bool(np.nanmean(change) < -WORSE * np.nanstd(base.scores[judge])) and _bounds(change, now)[1] < 0


def _bounds(change: NDArray[np.float64], seen: Recorded) -> tuple[float, float]:
    """Return the 95 % interval of the mean ``change``, clustered by prompt; none of it is known where all failed."""
    known = np.isfinite(change)
    if not known.any():
        return -np.inf, np.inf
    prompts = [prompt for prompt, use in zip(seen.prompts, known, strict=False) if use]
    estimate = mean_estimate(change[known], prompts)
    return estimate.low, estimate.high


EARLIER = "take an earlier checkpoint (the report names the best by a held-out judge)"
LEASH = f"{EARLIER}; then raise algorithm.kl_weight or lower optimizer.lr"
LABEL = "label these pairs and train the reward again: it has no opinion of such pictures yet"
CHECKS: dict[str, tuple[Check, int, str]] = {
    **{
        name: (_looks(names), RUNNING, f"look at the pictures; if nobody asked for this, {LEASH}, or {LABEL}")
        for name, names in LOOKS.items()
    },
    "a pattern over all pictures": (_overlay, RUNNING, f"{LABEL}; {EARLIER}"),
    "mode collapse": (_collapse, RUNNING, f"{LEASH}, or draw more pictures a prompt (group_size)"),
    "worse by a held-out judge": (_worse, RUNNING, f"{LEASH}; {LABEL}"),
    "reward and judge part": (_split, 1, f"{EARLIER}; {LABEL}"),
    "reward off its data": (_unsure, RUNNING, LABEL),
    "beyond what was labelled": (_beyond, RUNNING, LABEL),
    "runaway": (_runaway, 1, LEASH),
}
"""Name → what is looked for, the evaluations in a row that must show it, and the remedy."""

FROM_PICTURES = (*LOOKS, "a pattern over all pictures", "mode collapse")
"""The alarms that need no judge."""
