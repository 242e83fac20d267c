"""Human Preference Dataset v3: the preferred picture first, and how many annotators said so.

    prompt, path1 (preferred), path2, model1, model2, confidence
    choice_dist    [votes, votes] of the annotators, or null where one vote is all that is known

``path1`` is the preferred one whatever the order of the counts, so the larger count is its own. ``confidence`` is not
read: it is estimated from the counts.
"""

from collections.abc import Iterator

from ..pairs import Counts
from .compared import Compared
from .layout import Group
from .rows import BadRow, real


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row."""
    (row,) = group
    counts = Counts(left=1.0)
    if row.has("choice_dist"):
        votes = sorted((real(value, "choice_dist") for value in row.items("choice_dist")), reverse=True)
        if len(votes) != 2 or votes[1] < 0 or votes[0] <= 0:
            raise BadRow(f"'choice_dist' is {votes}; expected two counts")
        counts = Counts(left=votes[0], right=votes[1])
    yield Compared(
        row.text("prompt"),
        row.picture("path1", model=row.text_or("", "model1")),
        row.picture("path2", model=row.text_or("", "model2")),
        counts=counts,
    )
