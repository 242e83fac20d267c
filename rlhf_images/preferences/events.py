"""What an annotator does, as events that are only ever added: a vote, an undo, a skip, a flag, a comment.

A vote's choice is always in the pair's own frame: ``left`` is `PreferencePair.left`, on whichever side of the screen it
stood. The newest vote of an annotator on a pair that was not taken back is the one that counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar, final, get_args

from ..errors import BadInput

Choice = Literal["left", "right", "tie", "both_bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
EventType = Literal["vote", "undo", "skip", "flag", "comment"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
AGAIN = "~again"
"""Behind the id of a pair that is shown a second time, with its sides swapped."""
SCRIPTED = "scripted:"
"""Before the name of an annotator that is a program."""
TAGS = ("anatomy", "text", "prompt", "artefact", "style", "unsafe")
"""The reasons that the page offers; an import may bring others."""
FAST_MS = 600
"""A vote after less time on screen is marked as fast."""
MAX_NAME = 200
"""Characters of an id or of an annotator's name."""
MAX_TEXT = 4000
"""Characters of a comment."""
MAX_TAGS = 16
MAX_MS = 2**31 - 1
Whose: TypeAlias = str | tuple[str, ...] | None
"""Whose votes: one annotator's, several ones', or everybody's."""
AnyChoice = TypeVar("AnyChoice", bound="Choice | None")


@final
@dataclass(frozen=True)
class Event:
    """One act of one annotator. An impossible one, such as a skip with a choice, is a `BadInput`."""

    id: str
    """Made by the client, a UUID: sent twice, stored once."""
    type: EventType
    pair: str
    """May be empty for an undo; the store fills it in."""
    annotator: str
    choice: Choice | None = None
    """Of a vote, in the pair's own frame."""
    swapped: bool = False
    """Whether the screen showed the pair's right picture on the left."""
    again: bool = False
    """Whether it answers a repeat, which measures self-consistency and never counts as the vote."""
    strength: int = 1
    """1, or 2 for much better."""
    ms: int | None = None
    """Time on screen, in milliseconds."""
    undoes: str | None = None
    """Undo only: the id of the event that is taken back. Where not given, the annotator's newest (on ``pair``)."""
    text: str = ""
    """A comment, or why it is flagged."""
    tags: tuple[str, ...] = ()
    """Reasons, such as those of `TAGS`."""
    at: float = 0.0
    """Seconds since 1970 on the server's clock, set by the store."""

    def __post_init__(self) -> None:
        """Refuse what no annotator can have done, and text that a database cannot hold."""
        if self.type not in EVENT_TYPES:
            raise BadInput(f"event {self.id!r}: no type '{self.type}'; there are {', '.join(EVENT_TYPES)}")
        if (self.choice in CHOICES) != (self.type == "vote") or (self.choice is not None and self.type != "vote"):
            wanted = f"one of {', '.join(CHOICES)}" if self.type == "vote" else "none"
            raise BadInput(
                f"event {self.id!r} on pair '{self.pair}': no choice '{self.choice}' of a {self.type}: {wanted}"
            )
        if self.strength not in (1, 2) or (self.strength == 2 and self.choice not in ("left", "right")):
            raise BadInput(f"event {self.id!r}: strength {self.strength}; 1, or 2 for a left or right much better")
        if self.undoes is not None and self.type != "undo":
            raise BadInput(f"event {self.id!r}: only an undo undoes")
        if self.ms is not None and not 0 <= self.ms <= MAX_MS:
            raise BadInput(f"event {self.id!r}: {self.ms} ms on screen; 0 or more")
        self._refuse_unfit_text()

    def _refuse_unfit_text(self) -> None:
        named = {"id": self.id, "annotator": self.annotator, "pair": self.pair, "undoes": self.undoes or self.id}
        for name, value in named.items():
            if len(value) > MAX_NAME or (not value and not (name == "pair" and self.type == "undo")):
                raise BadInput(f"an event's {name} of {len(value)} characters; 1 to {MAX_NAME}")
        if len(self.text) > MAX_TEXT or len(self.tags) > MAX_TAGS or any(len(tag) > MAX_NAME for tag in self.tags):
            raise BadInput(f"event {self.id!r}: at most {MAX_TEXT} characters of text and {MAX_TAGS} tags")
        for value in (*named.values(), self.text, *self.tags):
            if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
                raise BadInput(f"an event's text has a NUL or half a character in it: {value[:40]!r}")

    def same(self, other: "Event") -> bool:
        """Return whether ``other`` is this event sent again: equal but for what the store fills in."""
        mine, others = replace(self, at=0.0), replace(other, at=0.0)
        if self.type == other.type == "undo":
            mine, others = replace(mine, again=False), replace(others, again=False)
            if not mine.pair or not others.pair or mine.undoes is None or others.undoes is None:
                mine, others = replace(mine, pair="", undoes=None), replace(others, pair="", undoes=None)
        return mine == others


def other_side(choice: AnyChoice) -> AnyChoice:
    """Return ``choice`` as it reads with the sides swapped; twice is once again the same."""
    turned: dict[str | None, Choice] = {"left": "right", "right": "left"}
    return turned.get(choice, choice)  # type: ignore[return-value]


def counts(annotator: str, whose: Whose) -> bool:
    """Return whether the votes of ``annotator`` are among those of ``whose``."""
    return whose is None or annotator == whose or (isinstance(whose, tuple) and annotator in whose)


def is_script(annotator: str) -> bool:
    """Return whether ``annotator`` is a program: it takes no pair away from people, and no person goes by its name."""
    return annotator.startswith(SCRIPTED)


def standing(events: Iterable[Event]) -> list[Event]:
    """Return the ``events`` that were not taken back, in order, without the undos themselves."""
    events = list(events)
    taken_back = {event.undoes for event in events if event.type == "undo"}
    return [event for event in events if event.type != "undo" and event.id not in taken_back]
