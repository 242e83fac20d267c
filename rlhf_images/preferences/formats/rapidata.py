"""Rapidata's comparisons by crowds: how many chose each picture, or which share, weighted by how far each is trusted.

    prompt, image1, image2 (embedded), model1, model2
    votes_image1, votes_image2                                 counts, in some sets
    weighted_results_image1_<criterion>, …image2_<criterion>   shares, for preference, coherence, alignment …
    detailed_results_<criterion>                               JSON of the single votes; not read

Shares are kept as one vote, divided. Pairs come once for each criterion, ``preference`` first.
"""

from collections.abc import Iterator

from ..pairs import Counts
from .compared import Compared
from .layout import Group
from .rows import BadRow, Row

SHARE = "weighted_results_image1_"


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row, once for each thing that was asked."""
    (row,) = group
    prompt = row.text("prompt")
    left = row.picture("image1", "image1_path", model=row.text_or("", "model1"))
    right = row.picture("image2", "image2_path", model=row.text_or("", "model2"))
    found = False
    if row.has("votes_image1") and row.has("votes_image2"):
        found = True
        yield Compared(prompt, left, right, counts=_counts(row, "votes_image1", "votes_image2"))
    criteria = [name.removeprefix(SHARE) for name in row.values if name.startswith(SHARE) and row.has(name)]
    for criterion in sorted(criteria, key=lambda name: (name != "preference", name)):
        found = True
        counts = _counts(row, SHARE + criterion, SHARE.replace("image1", "image2") + criterion)
        yield Compared(prompt, left, right, counts=counts, criterion=criterion)
    if not found:
        raise BadRow("no votes: neither 'votes_image1' nor any 'weighted_results_image1_…'")


def _counts(row: Row, first: str, second: str) -> Counts:
    left, right = row.real(first), row.real(second)
    if left < 0 or right < 0 or left + right <= 0:
        raise BadRow(f"'{first}' and '{second}' are {left} and {right}; expected counts or shares, and some")
    return Counts(left=left, right=right)
