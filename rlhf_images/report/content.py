"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from numpy.typing import ArrayLike

REWARD = "reward"
"""The name of the reward that was trained on; every other name in `Content.scores` is a held-out judge."""


@final
@dataclass(frozen=True)
class Compared:
    """One prompt and seed, drawn by both generators: thumbnails ``(3, h, w)`` in [0, 1], finite."""

    prompt: str
    seed: int
    base: ArrayLike
    tuned: ArrayLike
    utility_base: float
    """The deciding judge's score of the base's picture; NaN where the judge failed."""
    utility_tuned: float


@final
@dataclass(frozen=True)
class Column:
    """A generator in the gallery, such as the checkpoint of a step; ``note`` says what it is beside that."""

    name: str
    note: str = ""


@final
@dataclass(frozen=True)
class Shot:
    """One prompt and seed, drawn by every generator of the gallery, in the order of its columns."""

    prompt: str
    seed: int
    pictures: Sequence[bytes]
    """PNG or WebP."""
    scores: Sequence[float]
    """The deciding judge's; NaN where it failed."""


@final
@dataclass(frozen=True)
class Votes:
    """What people said in a blind comparison: ``value`` is the share that preferred ``after``, ties counted half."""

    before: str
    after: str
    value: float
    low: float
    high: float
    votes: int
    prompts: int
    people: int
    folder: str


@final
@dataclass(frozen=True)
class Raised:
    """An alarm with the pictures that show it: ``(prompt, the base's, now)``, PNG or WebP each."""

    name: str
    step: int
    seen: str
    remedy: str
    pictures: Sequence[tuple[str, bytes, bytes]]


@final
@dataclass(frozen=True)
class Content:
    """Everything a report shows. A number that is missing, None or NaN is shown as a dash."""

    title: str
    """Such as ``runs/demo``."""
    summary: dict[str, Any]
    """What `summary.json` holds: ``win_rate``, ``win_rate_ci``, ``<judge>_base``, ``<judge>_tuned``, ``seconds`` …"""
    compared: Sequence[Compared]
    """The pairs the verdict rests on."""
    metrics: Sequence[dict[str, float]]
    """One row per step of training."""
    evaluations: Sequence[dict[str, float]]
    """One row per evaluated step: ``step``, ``reward``, ``diversity``, ``distance``, and each judge by its name."""
    scores: dict[str, tuple[Sequence[float], Sequence[float]]]
    """``reward`` or a judge → its scores of the base's and the tuned pictures, in the order of ``compared``."""
    judge: str
    """The name of the judge that decides."""
    reward_card: dict[str, Any] | None
    run: dict[str, Any]
    """`run.json` of the stage that tuned."""
    compare_command: str | None = None
    """The command by which a person compares base and tuned, if there is one."""
    names: tuple[str, str] = ("base", "tuned")
    """What the two that are compared are called."""
    columns: Sequence[Column] = ()
    shots: Sequence[Shot] = ()
    """The pictures of the gallery: all that are kept, unselected."""
    votes: Sequence[Votes] = ()
    """Human comparisons of the two, the newest last."""
    highest_labelled: float | None = None
    """The trained reward's highest score of a picture that anybody labelled."""
    unfinished: str = ""
    """What a run that goes on would be told, such as ``step 40 of 100``; empty for one that has ended."""
    best: dict[str, Any] = field(default_factory=dict)
    """Of the best checkpoint, where the run kept one: ``step``, ``judge``, ``score``."""
    generators: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → what `summary.json` says of each generator, where more than two were compared."""
    alarms: Sequence[Raised] = ()
    """What came up during the training, in the order in which it did."""
    alarm_command: str | None = None
    """The command by which a person judges the pictures of the newest alarms."""
    quiet: int | None = None
    """The step of the last evaluation in which nothing that an alarm came of was to be seen; None without alarms."""
    evaluate_command: str | None = None
    """The command that draws more pictures of the two."""
    quiet_command: str | None = None
    """The command that compares the base with the step `quiet`, where its weights were kept."""
