"""EditReward and its bench: two edits of one picture, scored by people in several dimensions.

    prompt                                the instruction of the edit
    path1, path2, model1, model2          the two edited pictures; ``path_src`` is the one before
    model1_dim1_score, model2_dim1_score  what people gave, and further dimensions dim2 …
    choice_dist                           [votes, votes], or null
    tie_case                              true where the people called it a tie

The sum over the dimensions decides (criterion ""), then each dimension by itself if there are several (``dim1`` …).
``model1_overall_score`` is a model's, not a person's, and is not read.
"""

import re
from collections.abc import Iterator

from ..pairs import Counts
from .compared import Compared, better, said
from .layout import Group
from .rows import BadRow, Row, real

DIMENSION = re.compile(r"model1_(dim\d{1,3})_score\Z")


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row, and once more for each dimension if there are several."""
    (row,) = group
    prompt = row.text("prompt")
    left = row.picture("path1", model=row.text_or("", "model1"))
    right = row.picture("path2", model=row.text_or("", "model2"))
    dimensions = sorted(match[1] for name in row.values if (match := DIMENSION.match(name)) and row.has(name))
    scores = [(row.real(f"model1_{name}_score"), row.real(f"model2_{name}_score")) for name in dimensions]
    yield Compared(prompt, left, right, counts=_overall(row, scores))
    if len(dimensions) > 1:
        for name, (first, second) in zip(dimensions, scores, strict=True):
            yield Compared(prompt, left, right, counts=said("", better(first, second))[1], criterion=name)


def _overall(row: Row, scores: list[tuple[float, float]]) -> Counts:
    if row.values.get("tie_case") in (True, 1, "true", "True"):
        return Counts(tie=1.0)
    if row.has("choice_dist"):
        votes = [real(value, "choice_dist") for value in row.items("choice_dist")]
        if len(votes) != 2 or min(votes) < 0 or max(votes) <= 0:
            raise BadRow(f"'choice_dist' is {votes}; expected two counts")
        return Counts(left=votes[0], right=votes[1])
    if not scores:
        raise BadRow("nobody's choice: no 'choice_dist' and no 'model1_dim1_score'")
    return said("", better(sum(first for first, _ in scores), sum(second for _, second in scores)))[1]
