"""Argilla's exports of a preference between two pictures, flat or nested.

    flat      {images: {image_1, image_2, prompt}, "<question>.responses": ["image_1", …], "….responses.users": […],
              "….responses.status": […]}
    nested    {fields: {…}, responses: {<question>: [{value, user_id}]}}

The pictures and the prompt are looked for among the fields and inside a field that is itself a table. The answers are
``image_1``, ``image_2``, ``both_good``, ``both_bad`` and their like, or a ranking of the two. Discarded ones are left
out.
"""

from collections.abc import Iterator
from typing import Any

from ..events import Choice
from .compared import Ballot, Compared, better, choice_of
from .layout import Group
from .rows import BadRow, Row, items, plain_text, real

LEFT = ("image_1", "image1", "image_a", "left")
RIGHT = ("image_2", "image2", "image_b", "right")
PROMPT = ("prompt", "caption", "text", "instruction")
RESPONSES = ".responses"


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a record with the votes of all who answered the first question that is about it."""
    (row,) = group
    fields = _fields(row)
    yield Compared(
        fields.text(*PROMPT),
        fields.picture(*LEFT, model=row.text_or("", "model_1")),
        fields.picture(*RIGHT, model=row.text_or("", "model_2")),
        tuple(_ballots(row)),
    )


def _fields(row: Row) -> Row:
    """Return the record's fields, those inside a field brought to the top."""
    values = row.table("fields") if row.has("fields") else row.values
    inner = {name: value for held in values.values() if isinstance(held, dict) for name, value in held.items()}
    return Row(row.file, row.number, {**{str(name): value for name, value in inner.items()}, **values})


def _ballots(row: Row) -> list[Ballot]:
    """Return the votes. A record without any answer is a pair to be labelled."""
    if row.has("responses"):
        return _nested(row)
    questions = sorted(name.removesuffix(RESPONSES) for name in row.values if name.endswith(RESPONSES))
    for question in questions:
        column = question + RESPONSES
        if row.has(column):
            answers = row.items(column)
            users = row.items(f"{column}.users")
            statuses = row.items(f"{column}.status") if row.has(f"{column}.status") else ["submitted"] * len(answers)
            if not len(answers) == len(users) == len(statuses):
                raise BadRow(f"{len(answers)} answers of {len(users)} users with {len(statuses)} states")
            return [
                _ballot(answer, user)
                for answer, user, status in zip(answers, users, statuses, strict=True)
                if status == "submitted" and answer is not None
            ]
    return []


def _nested(row: Row) -> list[Ballot]:
    for answers in row.table("responses").values():
        ballots = []
        for answer in items(answers, "responses"):
            if not isinstance(answer, dict):
                raise BadRow("'responses' holds something that is no response")
            if answer.get("status", "submitted") in ("submitted", None) and answer.get("value") is not None:
                ballots.append(_ballot(answer["value"], answer.get("user_id")))
        if ballots:
            return ballots
    return []


def _ballot(answer: Any, user: Any) -> Ballot:
    return Ballot(
        plain_text(user, "user_id"), _ranked(answer) if isinstance(answer, list) else choice_of(_word(answer))
    )


def _ranked(answer: list[Any]) -> Choice:
    """Return the choice that a ranking of the two pictures makes: the lower rank is the better."""
    ranks: dict[Choice, float] = {}
    for one in items(answer, "value"):
        if not isinstance(one, dict):
            raise BadRow("a ranking holds something that has no rank")
        ranks[choice_of(_word(one.get("value")))] = real(one.get("rank"), "rank")
    if ranks.keys() != {"left", "right"}:
        raise BadRow("a ranking that is not of the two pictures")
    return better(-ranks["left"], -ranks["right"])


def _word(value: object) -> str:
    return plain_text(value, "value")
