"""The report across the rounds of a loop: what each round's votes bought, on the same prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
from markupsafe import Markup

from ..files import write_atomically
from ..preferences.pairs import Pairs
from ..recorded import Recorded
from ..runs import read_record
from ..statistics import Estimate, mean_estimate
from .gallery import address
from .of_run import compared, read_json
from .page import environment, source
from .words import finite

SHOWN = 12
"""Rows of pictures."""


@final
@dataclass(frozen=True)
class Round:
    """One round in numbers; None where something is not known."""

    name: str
    votes: int
    """Judged pairs that the reward model learnt from, those of earlier rounds included."""
    accuracy: float | None
    """Of the reward model, on pairs held out."""
    accuracy_ci: tuple[float, float] | None
    rate: float | None
    """Share of pairs in which the tuned generator was preferred to the base, by the deciding judge."""
    rate_ci: tuple[float, float] | None
    scores: dict[str, tuple[float | None, float | None]]
    """Held-out judge or ``diversity`` → base, tuned."""
    gained: Estimate | None
    """Mean change of the deciding judge's score against the generator of the round before; None for the first."""
    seconds: float | None
    report: str
    """Path of its own report, from the page."""


def write_rounds(folder: Path, number: int) -> Path:
    """Write the report on rounds 1 to ``number`` of the loop in ``folder``, and return its path."""
    drawn = [compared(folder / f"round_{n}" / "tuned") for n in range(1, number + 1)]
    templates = environment()
    judge = read_json(folder / f"round_{number}" / "summary.json")["judge"]
    gains = [None, *(_gained(now["tuned"], before["tuned"], judge) for before, now in pairwise(drawn))]
    rounds = [_round(folder / f"round_{n}", gained) for n, gained in enumerate(gains, 1)]
    html = templates.get_template("rounds.html").render(
        title=str(folder),
        judge=judge,
        rounds=rounds,
        names=list(dict.fromkeys(name for found in rounds for name in found.scores)),
        columns=["base", *(found.name for found in rounds)],
        rows=_rows(drawn),
        style=Markup(source(templates, "page.css")),
    )
    write_atomically(folder / "report.html", html.encode("utf-8", "replace"))
    return folder / "report.html"


def _round(folder: Path, gained: Estimate | None) -> Round:
    summary, card = read_json(folder / "summary.json"), {}
    if (folder / "reward" / "card.json").is_file():
        card = read_json(folder / "reward" / "card.json")
    judges = read_record(folder / "tuned")["config"]["evaluation"]["judges"]
    names = [name for name in (*judges, "diversity") if f"{name}_base" in summary]
    return Round(
        name=folder.name.replace("_", " "),
        votes=len(Pairs(folder / "all").labelled()),
        accuracy=finite(card.get("held_out_accuracy")),
        accuracy_ci=_interval(card.get("held_out_accuracy_ci")),
        rate=finite(summary.get("win_rate")),
        rate_ci=_interval(summary.get("win_rate_ci")),
        scores={name: (finite(summary[f"{name}_base"]), finite(summary[f"{name}_tuned"])) for name in names},
        gained=gained,
        seconds=finite((summary.get("seconds") or {}).get("total")),
        report=f"{folder.name}/report.html",
    )


def _gained(now: Recorded, before: Recorded, judge: str) -> Estimate | None:
    """Return how much higher ``judge`` scores the pictures ``now``, by the same prompts and seeds."""
    if judge not in now.scores or judge not in before.scores or now.names != before.names:
        return None
    rows = min(now.count, before.count)
    change = now.scores[judge][:rows] - before.scores[judge][:rows]
    known = np.isfinite(change)
    prompts = [prompt for prompt, use in zip(now.prompts, known, strict=False) if use]
    return mean_estimate(change[known], prompts) if prompts else None


def _rows(drawn: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the first picture of each prompt by the base and by the generator of every round."""
    base = drawn[0]["base"]
    shown = [base, *(found["tuned"] for found in drawn)]
    kept = sorted(set.intersection(*(set(found.kept) for found in shown)))
    first = [row for row in kept if base.seeds[row] == 0][:SHOWN]
    return [(base.prompts[row], [address(found.picture(row)) for found in shown]) for row in first]


def _interval(bounds: Any) -> tuple[float, float] | None:
    return None if not bounds or finite(bounds[0]) is None else (float(bounds[0]), float(bounds[1]))
