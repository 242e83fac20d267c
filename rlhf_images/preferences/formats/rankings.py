"""A table of rankings: a row has the pictures of a prompt and the place of each.

    prompt
    images                a list of paths below the table's folder, or of embedded pictures
    ranking               a list as long: 1 is the best; equal places are a tie
    annotator             optional: who ranked
    criterion             optional

k pictures make C(k, 2) pairs, each of weight 1 / C(k, 2).
"""

from collections.abc import Iterator

from .compared import Compared, from_ranks
from .layout import Group
from .rows import Reference, real


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pairs of a ranking."""
    (row,) = group
    pictures = [Reference(value, row) for value in row.items("images")]
    places = [real(place, "ranking") for place in row.items("ranking")]
    yield from from_ranks(
        row.text("prompt"), pictures, [places], [row.text_or("", "annotator")], row.text_or("", "criterion")
    )
