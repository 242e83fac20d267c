"""A table of rated pictures: those of one prompt become pairs, the better rated wins, equal ratings are a tie.

    prompt
    image                 a path below the table's folder, or embedded
    rating                a number; higher is better
    annotator             optional: each person's ratings are compared with that person's only
    criterion             optional: what was rated

k pictures make C(k, 2) pairs, each of weight 1 / C(k, 2).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .compared import Compared, from_scores
from .layout import Group
from .rows import BadRow, Row
from .tables import Unread, rows


def grouped(found: Iterable[Row | Unread], key: Callable[[Row], object]) -> Iterator[Group | Unread]:
    """Yield the rows ``found`` in groups of equal ``key``, in order of first appearance; bad rows by themselves."""
    groups: dict[object, list[Row]] = {}
    for row in found:
        if isinstance(row, Unread):
            yield row
            continue
        try:
            groups.setdefault(key(row), []).append(row)
        except BadRow as error:
            yield Unread(row.file, row.number, str(error))
    yield from (tuple(group) for group in groups.values())


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield the rows of each prompt and criterion."""
    return grouped(rows(source), key)


def key(row: Row) -> tuple[str, str]:
    """Return the prompt and the criterion of a row that can be compared, or raise `BadRow`."""
    row.real("rating")
    row.picture("image")
    row.text_or("", "annotator")
    return row.text("prompt"), row.text_or("", "criterion")


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pairs of a prompt. A person who rated one picture of it only has compared nothing."""
    prompt, criterion = key(group[0])
    people: dict[str, list[Row]] = {}
    for row in group:
        people.setdefault(row.text_or("", "annotator"), []).append(row)
    if all(len(rated) < 2 for rated in people.values()):
        raise BadRow("nobody rated two pictures of this prompt: nothing to compare")
    for name, rated in people.items():
        if len(rated) > 1:
            pictures = [row.picture("image", model=row.text_or("", "model")) for row in rated]
            yield from from_scores(prompt, pictures, [[row.real("rating") for row in rated]], [name], criterion)
