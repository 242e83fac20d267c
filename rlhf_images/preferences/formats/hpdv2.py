"""Human Preference Dataset v2, its two annotation files.

    train.json    [{prompt, file_path: [a, b], human_preference: [1, 0]}]
    test.json     [{prompt, image_path: [paths], rank: [places], raw_annotations: [{rank: [places], user_hash}]}]

A place is that of the picture at the same position; a lower one is better. Where the annotators' own rankings are there
they are the votes, else the averaged ``rank`` is one. The pictures are in folders ``train`` and ``test``: --images.
"""

from collections.abc import Iterator

from .compared import Compared, from_ranks, said
from .layout import Group
from .rows import BadRow, Reference, Row, items, plain_text, real


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the one pair of a training row, or all pairs of a test row."""
    (row,) = group
    prompt = row.text("prompt")
    if row.has("file_path"):
        yield _pair(row, prompt)
        return
    pictures = [Reference(value, row) for value in row.items("image_path")]
    if not row.has("raw_annotations") or not row.items("raw_annotations"):
        yield from from_ranks(prompt, pictures, [_places(row.value("rank"))], [""])
        return
    rankings, by = [], []
    for told in row.items("raw_annotations"):
        if not isinstance(told, dict):
            raise BadRow("'raw_annotations' holds something that is no annotation")
        rankings.append(_places(told.get("rank")))
        by.append(plain_text(told.get("user_hash"), "user_hash"))
    yield from from_ranks(prompt, pictures, rankings, by)


def _pair(row: Row, prompt: str) -> Compared:
    pictures = row.items("file_path")
    shares = [real(value, "human_preference") for value in row.items("human_preference")]
    if len(pictures) != 2 or len(shares) != 2:
        raise BadRow(f"{len(pictures)} pictures and {len(shares)} preferences; expected two of each")
    if set(shares) - {0.0, 1.0} or sum(shares) > 1:
        raise BadRow(f"'human_preference' is {shares}; expected [1, 0], [0, 1] or, for a tie, [0, 0]")
    ballots, counts = said(row.text_or("", "user_hash"), "left" if shares[0] else "right" if shares[1] else "tie")
    return Compared(prompt, Reference(pictures[0], row), Reference(pictures[1], row), ballots, counts)


def _places(value: object) -> list[float]:
    return [real(place, "rank") for place in items(value, "rank")]
