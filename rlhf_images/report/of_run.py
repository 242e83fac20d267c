"""The report on a run from what lies in its folder, at any time: also while it is trained, and long after."""

import gc
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..alarms import Alarm, alarms, last_quiet
from ..best import kept_best
from ..errors import BadInput
from ..progress import say
from ..recorded import Recorded, of_run, read
from ..runs import read_record
from ..track import read_rows
from .content import Column, Compared, Content, Raised, Shot
from .page import write_report
from .panels import MAX_ROWS
from .summary import summarise
from .votes import votes_on

COMPARED = "compared"
"""Where a finished comparison lies in a run's folder: ``compared.json`` names the generators, in order."""
MAX_READ = 2 * MAX_ROWS
"""Steps whose metrics are read for a page, evenly chosen: a long run's page takes no more memory than a short one's."""
MAX_COLUMNS = 8
"""Checkpoints in the gallery: the first, the best and the last, the others evenly chosen."""


def find_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the `finetune` run (or the comparison) in or at ``folder``, and its record."""
    here = [folder] if (folder / "run.json").is_file() else sorted(path.parent for path in folder.glob("*/run.json"))
    runs = [
        (path, record) for path in here if (record := read_record(path))["stage"] in ("finetune", "dpo", "evaluate")
    ]
    if not runs:
        raise BadInput(
            f"{folder}: no finetune run in it; tune a generator first: accelerate launch scripts/finetune.py CONFIG"
        )
    if len(runs) > 1:
        raise BadInput(f"{folder}: several runs in it ({', '.join(path.name for path, _ in runs)}); name one of them")
    return runs[0]


def report(folder: Path) -> Path:
    """Write the report on the run at or in ``folder`` into it, and return its path."""
    path = folder / "report.html"
    write_report(path, content_of(folder))
    return path


def refresh(run: Path) -> None:
    """Write the report on a run that goes on; what cannot be reported is said, and stops nothing.

    matplotlib's figures refer to themselves: Python looks for such garbage when a quarter of all objects are new, which
    with torch's half a million is many pages later. Here it is found at once, among what the page has made alone.
    """
    gc.freeze()
    try:
        report(run)
    except BadInput as error:
        say(f"no report yet: {error}")
    finally:
        gc.collect()
        gc.unfreeze()


def content_of(folder: Path) -> Content:
    """Return what there is to report of the run at or in ``folder``."""
    run, record = find_run(folder)
    evaluations, generators = of_run(run), compared(run)
    if len(generators) < 2 and len(evaluations) < 1:
        raise BadInput(f"{run}: nothing was evaluated yet; its first evaluation is written before the first step")
    deciding, config = _deciding(record, run), record["config"]
    training = [*evaluations, *evaluations][:2] if len(evaluations) < 2 else [evaluations[0], evaluations[-1]]
    final = len(generators) >= 2
    two = generators if final else dict(zip(("base", _step(training[1])), training, strict=True))
    (first, base), (second, tuned), *_ = two.items()
    card = read_card(Path(config["reward"])) if isinstance(config.get("reward"), str) else None
    summary = summarise(two, deciding, card)
    found = read_json(folder / "summary.json") if final and (folder / "summary.json").is_file() else {}
    summary |= {"seconds": found.get("seconds") or {"finetune": float(record["seconds"])}}
    chosen = kept_best(run)
    shown = _columns(evaluations, chosen.get("step"), record) if evaluations else _named(generators)
    generator = (config.get("generator") or {}).get("path")
    raised = alarms(evaluations)
    quiet = last_quiet(evaluations, raised)
    return Content(
        title=str(folder),
        summary=summary,
        compared=_pairs(base, tuned, deciding),
        metrics=read_rows(run / "metrics.jsonl", MAX_READ),
        evaluations=read_rows(run / "evaluations.jsonl"),
        scores={
            name: (base.scores[name].tolist(), tuned.scores[name][: base.count].tolist())
            for name in base.scores
            if name in tuned.scores
        },
        judge=deciding,
        reward_card=card,
        run=record,
        compare_command=f"rlhf-images label --compare {generator} {run} --same-seed" if generator else None,
        names=(first, second),
        columns=[column for column, _ in shown],
        shots=_shots([recorded for _, recorded in shown], deciding),
        votes=votes_on(run, generator),
        highest_labelled=record.get("highest_labelled"),
        unfinished="" if record["finished"] else f"step {evaluations[-1].step or 0} of {config.get('steps', '?')}",
        best=chosen,
        generators=summary.get("generators") or {},
        alarms=_shown(raised, evaluations),
        alarm_command=f"rlhf-images label --alarm {run}",
        quiet=quiet,
        evaluate_command=f"rlhf-images evaluate {folder}",
        quiet_command=_against_base(run, generator, quiet, evaluations),
    )


def compared(run: Path) -> dict[str, Recorded]:
    """Return the generators of the finished comparison in ``run`` by name, the base first; none where there is none."""
    path = run / COMPARED / f"{COMPARED}.json"
    if not path.is_file():
        return {}
    return {str(entry["name"]): read(run / COMPARED / str(entry["folder"])) for entry in read_json(path)["generators"]}


def read_card(folder: Path) -> dict[str, Any] | None:
    """Return the card that `train-reward` wrote, or None for a reward that has none."""
    return read_json(folder / "card.json") if (folder / "card.json").is_file() else None


def _against_base(run: Path, base: str | None, step: int | None, evaluations: Sequence[Recorded]) -> str | None:
    """Return the command that compares the base with the weights that the evaluation after ``step`` steps kept."""
    folders = [found.folder for found in evaluations if step and found.step == step]
    if base is None or not folders or not any(folders[0].glob("*.safetensors")):
        return None
    named = (f"base={base}", f"step {step}={folders[0]}", f"last={run}")
    return shlex.join(["rlhf-images", "evaluate", "--generators", *named, "--out", f"{run}/against_step_{step}"])


def _shown(raised: Sequence[Alarm], evaluations: Sequence[Recorded]) -> list[Raised]:
    """Return the alarms of a training, each with the pictures that it points to."""
    by_step = {found.step: found for found in evaluations}
    found = []
    for alarm in raised:
        base, now = evaluations[0], by_step[alarm.step]
        rows = [row for row in alarm.rows if row in base.kept]
        pictures = [(now.prompts[row], base.picture(row), now.picture(row)) for row in rows]
        found.append(Raised(alarm.name, alarm.step, alarm.seen, alarm.remedy, pictures))
    return found


def _deciding(record: dict[str, Any], run: Path) -> str:
    found = record.get("deciding") or (record["config"].get("evaluation") or {}).get("deciding")
    if found is None:
        raise BadInput(f"{run}/run.json: names no deciding judge")
    return str(found)


def _step(found: Recorded) -> str:
    return f"step {found.step or 0}"


def _columns(
    evaluations: Sequence[Recorded], best: int | None, record: dict[str, Any]
) -> list[tuple[Column, Recorded]]:
    """Return the checkpoints to show: all, or the first, the best, the last and others evenly chosen."""
    steps = [found.step or 0 for found in evaluations]
    wanted = {round(place) for place in np.linspace(0, len(steps) - 1, min(len(steps), MAX_COLUMNS)).tolist()}
    if best is not None and best in steps and (where := steps.index(best)) not in wanted:
        wanted.remove(min(wanted - {0, len(steps) - 1} or {where}, key=lambda place: abs(place - where)))
        wanted.add(where)
    last = len(steps) - 1
    found = []
    for place in sorted(wanted):
        notes = ["best"] if steps[place] == best else []
        notes += ["last"] if place == last and record["finished"] else []
        name = "base" if steps[place] == 0 else f"step {steps[place]}"
        found.append((Column(name, ", ".join(notes)), evaluations[place]))
    return found


def _named(generators: dict[str, Recorded]) -> list[tuple[Column, Recorded]]:
    return [(Column(name), found) for name, found in generators.items()]


def _pairs(base: Recorded, tuned: Recorded, deciding: str) -> list[Compared]:
    nothing = [math.nan] * base.count
    before, after = (list(found.scores.get(deciding, nothing)) for found in (base, tuned))
    rows = range(min(base.count, tuned.count))
    prompts, seeds, ours, theirs = base.prompts, base.seeds, tuned.thumbnails, base.thumbnails
    return [Compared(prompts[r], seeds[r], theirs[r], ours[r], float(before[r]), float(after[r])) for r in rows]


def _shots(recorded: Sequence[Recorded], deciding: str) -> list[Shot]:
    """Return the rows whose pictures every one of ``recorded`` kept."""
    kept = sorted(set.intersection(*(set(found.kept) for found in recorded)))
    prompts, seeds = recorded[0].prompts, recorded[0].seeds
    shots = []
    for row in kept:
        scores = [float(found.scores[deciding][row]) if deciding in found.scores else math.nan for found in recorded]
        shots.append(Shot(prompts[row], seeds[row], [found.picture(row) for found in recorded], scores))
    return shots


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
