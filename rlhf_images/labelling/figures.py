"""The figures of a round as the page shows them: blind until it is over, then with the command to paste."""

from collections.abc import Callable
from typing import Any

from ..preferences.assignment import Assignment
from ..preferences.summary import Summary, summarise


def figures(
    assignment: Assignment, annotator: str, next_step: Callable[[Summary], str] | None = None
) -> dict[str, Any]:
    """Return the summary of the round as plain values, with ``over``: whether ``annotator`` has nothing left to do.

    Before that, whose pictures win and how the gold pairs go is left out: it would tell what must not be known yet.
    After it, ``next`` is the command that makes something of the votes, where there is one.
    """
    done, total = assignment.progress(annotator)
    summary = summarise(assignment.pairs, assignment.gold)
    found = summary.as_json() | {"over": done >= total, "next": None}
    if not found["over"]:
        people = [{name: value for name, value in person.items() if name != "gold"} for person in found["annotators"]]
        return found | {"annotators": people, "comparison": None, "ranking": {}}
    if next_step and summary.votes and summary.comparison is None:
        found["next"] = next_step(summary)
    return found
