"""A folder of pictures with a ``metadata.jsonl``, which ``datasets`` loads as ``imagefolder``: one line a pair.

    left_file_name, right_file_name    pictures, as paths below the folder; loaded as columns ``left`` and ``right``
    prompt
    preference                         share of votes that prefer the left one, in [0, 1]

A line without ``preference`` is a pair to be labelled.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ..pairs import Counts
from . import own
from .compared import Compared
from .layout import Export, Group, Splits
from .rows import BadRow


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a line; one without ``votes`` and ``preference`` goes in without a vote."""
    (row,) = group
    left = row.picture("left_file_name", "left", model=row.text_or("", "left_model"))
    right = row.picture("right_file_name", "right", model=row.text_or("", "right_model"))
    prompt = row.text("prompt", "text", "caption")
    if row.has("votes"):
        yield own.read(row, prompt, left, right)
    elif row.has("preference"):
        share = row.real("preference")
        if not 0 <= share <= 1:
            raise BadRow(f"'preference' is {share}; expected a share from 0 to 1")
        counts = Counts(tie=1.0) if share == 0.5 else Counts(left=share, right=1 - share)
        yield Compared(prompt, left, right, counts=counts)
    else:
        yield Compared(prompt, left, right)


def write(export: Export, out: Path) -> Splits:
    """Write ``metadata.jsonl`` and ``images/``, each picture once."""
    (out / "images").mkdir()
    with (out / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for judged in export.voted:
            names = [export.write(picture, out / "images") for picture in (judged.pair.left, judged.pair.right)]
            row = {
                "left_file_name": f"images/{names[0]}",
                "right_file_name": f"images/{names[1]}",
                "prompt": judged.pair.prompt,
                "preference": judged.preference,
                "left_model": export.model(judged.pair.left),
                "right_model": export.model(judged.pair.right),
                **judged.columns(),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {}
