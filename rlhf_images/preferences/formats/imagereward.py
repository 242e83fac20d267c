"""ImageRewardDB: rankings by experts, in two forms.

    test.json       [{id, prompt, generations: [paths], ranking: [places]}]; 1 is the best place
    the data set    a row a picture: image or image_path, prompt_id, prompt, rank, overall_rating,
                    image_text_alignment_rating, fidelity_rating (1 to 7); rows of one prompt_id belong together

Pairs by rank have the criterion "", those by the two other ratings ``image_text_alignment`` and ``fidelity``. A rank is
itself made from all of them, so ``overall`` is not read.
"""

from collections.abc import Iterator
from pathlib import Path

from .compared import Compared, from_ranks, from_scores
from .layout import Group
from .ratings import grouped
from .rows import BadRow, Reference, Row, real
from .tables import Unread, rows

RATINGS = ("image_text_alignment", "fidelity")


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield the rows with one id together: a whole ranking, or the pictures of a prompt."""
    return grouped(rows(source), _key)


def _key(row: Row) -> object:
    if row.has("generations"):
        return row.place
    row.real("rank")
    row.picture("image", "image_path")
    return row.text("prompt_id"), row.text("prompt")


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pairs of a prompt: by rank first, then by each rating that all its pictures have."""
    first = group[0]
    prompt = first.text("prompt")
    if first.has("generations"):
        pictures = [Reference(value, first) for value in first.items("generations")]
        places = [real(place, "ranking") for place in first.items("ranking")]
        yield from from_ranks(prompt, pictures, [places], [""])
        return
    pictures = [row.picture("image", "image_path") for row in group]
    yield from from_ranks(prompt, pictures, [[row.real("rank") for row in group]], [""])
    for rating in RATINGS:
        column = f"{rating}_rating"
        if all(row.has(column) for row in group):
            try:
                scores = [row.real(column) for row in group]
            except BadRow:
                continue  # a rating that is no number takes nothing from the ranking
            yield from from_scores(prompt, pictures, [scores], [""], rating)
