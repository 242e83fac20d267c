"""Preference rows as TRL names them, with pictures: ``prompt, chosen, rejected``. Open Image Preferences has them too.

    prompt, chosen, rejected           the pictures as `datasets` embeds them: {"bytes": …, "path": …}
    chosen_model, rejected_model       what drew them, if told

Such rows have no place for a tie. Ours stand in a split of their own, ``ties``, with the same columns, so that a
trainer that takes ``train`` never learns from a choice that nobody made. ``chosen_is_left`` keeps the sides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import own
from .compared import Compared, said
from .layout import Export, Group, Splits
from .parquet import write_parquet


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row, the chosen picture on the left unless the row says otherwise."""
    (row,) = group
    chosen = row.picture("chosen", model=row.text_or("", "chosen_model"))
    rejected = row.picture("rejected", model=row.text_or("", "rejected_model"))
    prompt = row.text("prompt", "caption")
    if row.has("votes"):
        left, right = (rejected, chosen) if row.values.get("chosen_is_left") is False else (chosen, rejected)
        yield own.read(row, prompt, left, right)
    else:
        ballots, counts = said("", "left")
        yield Compared(prompt, chosen, rejected, ballots, counts)


def write(export: Export, out: Path) -> Splits:
    """Write the decided pairs as split ``train`` and the tied ones, if any, as ``ties``."""
    from datasets import Features, Image, Value  # type: ignore[import-untyped,unused-ignore]

    features = Features(
        {
            "prompt": Value("string"),
            "chosen": Image(),
            "rejected": Image(),
            "chosen_model": Value("string"),
            "rejected_model": Value("string"),
            "chosen_is_left": Value("bool"),
            **{name: Value("float64" if name == "weight" else "string") for name in own.COLUMNS},
        }
    )
    write_parquet(out, "data/train", features, _rows(export, tied=False))
    if not any(judged.preference == 0.5 for judged in export.voted):
        return {"train": "data/train-*.parquet"}
    write_parquet(out, "ties/ties", features, _rows(export, tied=True))
    return {"train": "data/train-*.parquet", "ties": "ties/ties-*.parquet"}


def _rows(export: Export, tied: bool) -> Iterator[dict[str, Any]]:
    for judged in export.voted:
        if (judged.preference == 0.5) is tied:
            sides = [judged.pair.left, judged.pair.right]
            chosen_is_left = judged.preference >= 0.5
            chosen, rejected = sides if chosen_is_left else sides[::-1]
            yield {
                "prompt": judged.pair.prompt,
                "chosen": {"bytes": export.picture(chosen), "path": None},
                "rejected": {"bytes": export.picture(rejected), "path": None},
                "chosen_model": export.model(chosen),
                "rejected_model": export.model(rejected),
                "chosen_is_left": chosen_is_left,
                **judged.columns(),
            }
