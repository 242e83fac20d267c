"""What an alarm asks a person: the base's picture or the one that raised it, side by side and blind."""

import json
from pathlib import Path
from typing import Any

from . import recorded
from .alarms import FILE
from .errors import BadInput
from .preferences import Pairs, Picture, PreferencePair
from .preferences.pairs import picture_id
from .progress import say


def alarm_pairs(run: str) -> Path:
    """Return the folder of pairs that the newest alarms of a finetune run point to, made at the first call.

    Both pictures of a pair have the same prompt and noise; one is the base's, the other that of the step of the alarm.
    """
    folder = Path(run)
    try:
        raised = [(int(alarm["step"]), str(alarm["name"]), alarm["rows"]) for alarm in _read(folder / FILE)]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder / FILE}: cannot be read ({error}); the next evaluation of the run makes it anew"
        ) from None
    if not raised:
        raise BadInput(f"{run}: no alarm came up, so there is nothing to ask about")
    step = max(step for step, _, _ in raised)
    names = [name for at, name, _ in raised if at == step]
    rows = sorted({int(row) for at, _, found in raised if at == step for row in found})
    out = folder / "alarms" / f"step_{step:06d}"
    if not (out / "pairs.jsonl").is_file():
        _write(out, folder, step, rows)
    say(f"{len(Pairs(out).pairs)} pairs of the alarms after step {step} ({', '.join(names)}) in {out}")
    return out


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise BadInput(f"{path.parent}: no finetune run with evaluations ({path.name} is missing)")
    return list(json.loads(path.read_text(encoding="utf-8")))


def _write(out: Path, run: Path, step: int, rows: list[int]) -> None:
    now, base = (recorded.read(recorded.place(run, number)) for number in (step, 0))
    pictures: list[tuple[bytes, Picture]] = []
    pairs = []
    for row in rows:
        prompt, ids = now.prompts[row], list[str]()
        for seen, name in ((base, f"{run}, base"), (now, f"{run}, step {step}")):
            data = seen.picture(row)
            ids.append(picture_id(data))
            pictures.append((data, Picture(ids[-1], prompt, seen.seeds[row], row, {"run": name})))
        if ids[0] != ids[1]:
            pairs.append(PreferencePair(f"{row:06d}", prompt, ids[0], ids[1]))
    if not pairs:
        raise BadInput(
            f"{run}: the alarms after step {step} point to no picture that was kept; raise evaluation.kept_prompts"
        )
    Pairs.create(out, pictures, pairs)
