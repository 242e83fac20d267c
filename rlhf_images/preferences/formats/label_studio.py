"""Label Studio's JSON and JSON-MIN exports of a comparison of two pictures.

    JSON        [{data: {prompt, image1, image2}, annotations: [{completed_by, was_cancelled, lead_time, result}]}]
                with ``{"type": "pairwise", "value": {"selected": "left"}}`` or choices in ``result``
    JSON-MIN    [{prompt, image1, image2, annotator, lead_time, <control>: "left"}]

The names in ``data`` are the project's own: the prompt is under prompt, caption or text, and the two other values that
name pictures are the left and the right one, in the order of their names. Pictures lie on Label Studio's server or
were imported from a folder: name it as --images.
"""

from collections.abc import Iterator
from typing import Any

from .compared import Ballot, Compared, choice_of
from .layout import Group
from .rows import BadRow, Reference, Row, items, plain_text, real

NO_ANSWERS = {"id", "annotator", "annotation_id", "prompt", "caption", "text"}
"""Columns of a JSON-MIN row that are never the answer, whatever they say."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a task with the votes of all who answered it."""
    (row,) = group
    if row.has("annotations"):
        task = Row(row.file, row.number, row.table("data"))
        ballots = [ballot for told in row.items("annotations") for ballot in _ballots(told)]
    else:
        task = row
        ballots = _minimal(row)
    left, right = _pictures(task)
    yield Compared(task.text("prompt", "caption", "text"), left, right, tuple(ballots))


def _pictures(task: Row) -> list[Reference]:
    """Return the two pictures of a task, in the order of their columns' names."""
    names = [name for name in sorted(task.values) if _is_picture(task.values[name])]
    if len(names) != 2:
        raise BadRow(f"{len(names)} values name pictures; expected two")
    return [task.picture(name) for name in names]


def _is_picture(value: object) -> bool:
    if not isinstance(value, str):
        return False
    path = value.split("?")[0] if "?d=" not in value else value
    return value.startswith("data:image/") or path.lower().endswith(ENDINGS)


def _ballots(told: Any) -> Iterator[Ballot]:
    """Yield the vote of one annotation; a cancelled or empty one has none."""
    if not isinstance(told, dict):
        raise BadRow("'annotations' holds something that is no annotation")
    if told.get("was_cancelled"):
        return
    for part in items(told.get("result"), "result"):
        value = part.get("value") if isinstance(part, dict) else None
        if isinstance(value, dict) and part.get("type") in ("pairwise", "choices"):
            word = value.get("selected") if part["type"] == "pairwise" else value.get("choices")
            yield Ballot(_who(told.get("completed_by")), _choice(word), ms=_ms(told.get("lead_time")))
            return


def _minimal(row: Row) -> list[Ballot]:
    """Return the vote of a JSON-MIN row: the one value that is a choice."""
    for name in sorted(row.values.keys() - NO_ANSWERS):
        value = row.values[name]
        if isinstance(value, dict):
            value = value.get("selected", value.get("choices"))
        try:
            return [Ballot(_who(row.values.get("annotator")), _choice(value), ms=_ms(row.values.get("lead_time")))]
        except BadRow:
            continue
    raise BadRow("no value of it is a choice")


def _choice(word: object) -> Any:
    if isinstance(word, list) and len(word) == 1:
        word = word[0]
    return choice_of(plain_text(word, "selected"))


def _who(by: object) -> str:
    """Return a name for the one who answered: Label Studio tells a number, or a person."""
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    if by is None or isinstance(by, bool):
        return "label-studio"
    return f"label-studio:{by}" if isinstance(by, int) else plain_text(by, "completed_by")


def _ms(seconds: object) -> int | None:
    """Return a time on screen in milliseconds, where a believable one is told."""
    try:
        milliseconds = real(seconds, "lead_time") * 1000
    except BadRow:
        return None
    return round(milliseconds) if 0 <= milliseconds < 1e9 else None
