"""Which checkpoint to take: the best by a held-out judge on the fixed evaluation, never by the reward trained on.

The run keeps it beside the last one: ``<run>/best/``, in the same files, and ``best.json``, which says why.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput
from .files import write_json
from .recorded import Recorded

FOLDER = "best"
TRAINED = "reward"
"""The name of the reward that was trained on."""


def held_out_judge(judges: Iterable[str], deciding: str) -> str | None:
    """Return the judge that chooses: the deciding one, or another that was not trained on, or None without any."""
    held_out = [name for name in judges if name != TRAINED]
    return deciding if deciding in held_out else next(iter(held_out), None)


def best(evaluations: Sequence[Recorded], deciding: str) -> Recorded | None:
    """Return the evaluation of the checkpoint with the highest mean held-out score; of equal ones the earliest."""
    trained = [found for found in evaluations if found.step]
    judge = held_out_judge(trained[0].scores, deciding) if trained else None
    scored = [(mean, found) for found in trained if judge and (mean := mean_score(found, judge)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def mean_score(found: Recorded, judge: str) -> float | None:
    """Return the mean of the scores that ``judge`` gave, None where it gave none."""
    scores = found.scores.get(judge, np.zeros(0))
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if len(known) else None


def keep_best(run: Path, evaluations: Sequence[Recorded], deciding: str, save: Callable[[Path], None]) -> None:
    """Let ``<run>/best`` be the best of ``evaluations``.

    Its weights are those that its evaluation kept. Full weights are not kept there: ``save`` writes those of the
    newest evaluation, and an older best stays only while it lies in ``best`` already.
    """
    chosen = best(evaluations, deciding)
    if chosen is None or kept_best(run).get("step") == chosen.step:
        return
    staged = run / f".{FOLDER}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    if not copy_weights(chosen.folder, staged):
        if chosen is not evaluations[-1]:
            shutil.rmtree(staged)
            return
        save(staged)
    judge = held_out_judge(chosen.scores, deciding)
    assert judge is not None
    write_json(staged / "best.json", {"step": chosen.step, "judge": judge, "score": mean_score(chosen, judge)})
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    staged.replace(run / FOLDER)


def copy_weights(evaluation: Path, folder: Path) -> bool:
    """Copy the adapters that an evaluation kept into ``folder``; return whether there were any."""
    names = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")
    found = [evaluation / name for name in names if (evaluation / name).is_file()]
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return bool(found)


def kept_best(run: Path) -> dict[str, Any]:
    """Return the ``step``, ``judge`` and ``score`` of the checkpoint in ``<run>/best``, or nothing where none is."""
    path = run / FOLDER / "best.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); remove that folder") from None
