"""Pick-a-Pic v1 and v2, which Diffusion-DPO trainers read: a row has both pictures' bytes, and who won.

    jpg_0, jpg_1         bytes of the pictures, in whatever format
    label_0, label_1     1, 0 or 0.5 each, their sum 1; tied rows are 0.5 and 0.5
    caption, are_different, has_label, best_image_uid, image_0_uid, image_1_uid, image_0_url, image_1_url, model_0,
    model_1, ranking_id, user_id, num_example_per_prompt, created_at

In the sets without pictures, these are found in --images by their uid.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..pairs import Counts
from . import own
from .compared import Compared, better, said
from .layout import Export, Group, Splits
from .parquet import write_parquet
from .rows import BadRow, Row

COLUMNS = (
    "are_different", "best_image_uid", "caption", "created_at", "has_label", "image_0_uid", "image_0_url",
    "image_1_uid", "image_1_url", "jpg_0", "jpg_1", "label_0", "label_1", "model_0", "model_1", "ranking_id", "user_id",
    "num_example_per_prompt",
)  # fmt: skip
"""As the published sets have them."""


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row; one without a label goes in without a vote."""
    (row,) = group
    left = row.picture("jpg_0", "image_0_uid", model=row.text_or("", "model_0"))
    right = row.picture("jpg_1", "image_1_uid", model=row.text_or("", "model_1"))
    prompt = row.text("caption")
    if row.has("votes"):
        yield own.read(row, prompt, left, right)
    elif row.values.get("has_label") is False:
        yield Compared(prompt, left, right)
    else:
        by = row.text_or("", "user_id")
        label = _label(row)
        if label in (0.0, 0.5, 1.0):
            ballots, counts = said(f"pickapic:{by}" if by else "", better(label, 0.5))
        else:
            ballots, counts = (), Counts(left=label, right=1 - label)
        yield Compared(prompt, left, right, ballots, counts)


def _label(row: Row) -> float:
    first, second = row.real("label_0"), row.real("label_1")
    if not 0 <= first <= 1 or abs(first + second - 1) > 1e-6:
        raise BadRow(f"the labels are {first} and {second}; expected shares that make 1")
    return first


def write(export: Export, out: Path) -> Splits:
    """Write a row for each pair with a vote; its label is the side that most people prefer, 0.5 where none is."""
    from datasets import Features, Value  # type: ignore[import-untyped,unused-ignore]

    kinds = {
        **dict.fromkeys(("jpg_0", "jpg_1"), "binary"),
        **dict.fromkeys(("label_0", "label_1", "weight"), "float64"),
        **dict.fromkeys(("are_different", "has_label"), "bool"),
        **dict.fromkeys(("ranking_id", "user_id", "num_example_per_prompt"), "int64"),
        "created_at": "timestamp[ns]",
    }
    features = Features({name: Value(kinds.get(name, "string")) for name in (*COLUMNS, *own.COLUMNS)})
    write_parquet(out, "data/train", features, _rows(export))
    return {"train": "data/train-*.parquet"}


def _rows(export: Export) -> Iterator[dict[str, Any]]:
    of_prompt = Counter(judged.pair.prompt for judged in export.voted)
    voters = {name: number for number, name in enumerate(own.annotators(export.voted))}
    for number, judged in enumerate(export.voted):
        pair = judged.pair
        label = own.side(judged.preference)
        yield {
            "jpg_0": export.picture(pair.left),
            "jpg_1": export.picture(pair.right),
            "label_0": label,
            "label_1": 1 - label,
            "caption": pair.prompt,
            "are_different": True,
            "has_label": True,
            "best_image_uid": {1.0: pair.left, 0.0: pair.right}.get(label, ""),
            "image_0_uid": pair.left,
            "image_1_uid": pair.right,
            "image_0_url": "",
            "image_1_url": "",
            "model_0": export.model(pair.left),
            "model_1": export.model(pair.right),
            "ranking_id": number,
            "user_id": voters[judged.ballots[0].annotator] if len(judged.ballots) == 1 else None,
            "num_example_per_prompt": of_prompt[pair.prompt],
            "created_at": None,
            **judged.columns(),
        }
