"""Any table of pairs, for what no other layout fits: CSV, JSON, lines of JSON or parquet.

    prompt
    left, right            pictures: paths below the table's folder, or embedded
    choice                 left, right, tie or both_bad, or what other tools call them
    annotator              optional: who chose
    strength               optional: 1, or 2 for much better
    weight, criterion      optional

A row without a choice is a pair to be labelled. Several rows on one pair are several votes.
"""

from collections.abc import Iterator

from .compared import Ballot, Compared, choice_of, said
from .layout import Group
from .rows import BadRow, Row


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row."""
    (row,) = group
    left = row.picture("left", model=row.text_or("", "left_model"))
    right = row.picture("right", model=row.text_or("", "right_model"))
    prompt = row.text("prompt")
    weight = row.real("weight") if row.has("weight") else 1.0
    if weight <= 0:
        raise BadRow(f"'weight' is {weight}; it must be more than 0")
    criterion = row.text_or("", "criterion")
    if not row.has("choice"):
        yield Compared(prompt, left, right, weight=weight, criterion=criterion)
        return
    ballots, counts = said(row.text_or("", "annotator"), choice_of(row.text("choice")))
    if ballots and row.has("strength"):
        ballots = (Ballot(ballots[0].annotator, ballots[0].choice, _strength(row)),)
    yield Compared(prompt, left, right, ballots, counts, weight, criterion)


def _strength(row: Row) -> int:
    strength = row.real("strength")
    if strength not in (1, 2):
        raise BadRow(f"'strength' is {strength}; expected 1 or 2")
    return int(strength)
