"""TIFA's human annotations: pictures of a caption by several models, each given 1 to 5 by two people.

    {key: {text_id, text, image_path, human_scores: [5, 4], human_avg}}

It is not told who gave which score, so the averages are compared: one nameless vote a pair.
"""

from collections.abc import Iterator
from pathlib import Path

from .compared import Compared, from_scores
from .layout import Group
from .ratings import grouped
from .rows import BadRow, Row, real
from .tables import Unread, rows


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield the pictures of each caption together."""
    return grouped(rows(source), _key)


def _key(row: Row) -> str:
    _score(row)
    row.picture("image_path")
    return row.text("text")


def pairs(group: Group) -> Iterator[Compared]:
    """Yield all pairs of a caption's pictures."""
    pictures = [row.picture("image_path") for row in group]
    yield from from_scores(group[0].text("text"), pictures, [[_score(row) for row in group]], [""])


def _score(row: Row) -> float:
    scores = [real(value, "human_scores") for value in row.items("human_scores")]
    if not scores:
        raise BadRow("'human_scores' is empty")
    return sum(scores) / len(scores)
