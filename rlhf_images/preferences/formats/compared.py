"""What every layout comes down to: two pictures of one prompt, and what was said about them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

from ..events import MAX_MS, MAX_NAME, Choice, Event
from ..pairs import NO_VOTES, Counts
from .rows import BadRow, Reference

MANY = 100
"""Pictures of one prompt that are compared all with all, at most: 4,950 pairs."""
WORDS: dict[str, Choice] = {
    **dict.fromkeys(("left", "a", "1", "image_1", "image1", "image_a", "first", "left_is_better"), "left"),
    **dict.fromkeys(("right", "b", "2", "image_2", "image2", "image_b", "second", "right_is_better"), "right"),
    **dict.fromkeys(("tie", "equal", "same", "both_good", "draw", "no_preference"), "tie"),
    **dict.fromkeys(("both_bad", "bad", "neither_good"), "both_bad"),
}
"""What people call the four choices on the tools that they use. A word that is not here makes a bad row."""


@final
@dataclass(frozen=True)
class Ballot:
    """One person's choice on one pair."""

    annotator: str
    choice: Choice
    strength: int = 1
    """1, or 2 for a left or right that is much better."""
    ms: int | None = None
    """Time on screen, in milliseconds."""
    again: bool = False
    """Whether it answers a repeat, which measures self-consistency and never counts as the vote."""

    def __post_init__(self) -> None:
        """Refuse what the store would."""
        if not 1 <= len(self.annotator) <= MAX_NAME or "\0" in self.annotator:
            raise BadRow(f"an annotator's name of {len(self.annotator)} characters, or with a NUL; 1 to {MAX_NAME}")
        if self.strength not in (1, 2) or (self.strength == 2 and self.choice not in ("left", "right")):
            raise BadRow(f"a {self.choice} of strength {self.strength}; 1, or 2 for left or right")
        if self.ms is not None and not 0 <= self.ms <= MAX_MS:
            raise BadRow(f"{self.ms} ms on screen")


@final
@dataclass(frozen=True)
class Compared:
    """A pair as a layout tells it: by whom it was judged, or only how often each choice was made."""

    prompt: str
    left: Reference
    right: Reference
    ballots: tuple[Ballot, ...] = ()
    counts: Counts = NO_VOTES
    """Votes whose voters are not told. They may be shares: 0.7 to 0.3 is one vote, divided."""
    weight: float = 1.0
    criterion: str = ""
    """What was asked, where a layout has several answers for one pair: ``coherence``, ``overall`` …"""
    name: str = ""
    """The pair's own id, where the layout has one."""
    events: tuple[tuple[int, Event], ...] = ()
    """What happened to the pair, where the layout tells it all, in order by number; their ``pair`` may be any."""


def choice_of(word: str) -> Choice:
    """Return which of the four choices ``word`` means, whatever its case and spacing."""
    meant = "_".join(word.lower().replace("-", " ").replace("_", " ").split())
    if meant not in WORDS:
        raise BadRow(f"no choice is called '{word[:40]}'; known: {', '.join(WORDS)}")
    return WORDS[meant]


def said(by: str, choice: Choice) -> tuple[tuple[Ballot, ...], Counts]:
    """Return one vote: a ballot where it is known ``by`` whom, else a count."""
    return ((Ballot(by, choice),), NO_VOTES) if by else ((), Counts(**{choice: 1.0}))


def better(left: float, right: float) -> Choice:
    """Return the choice of someone to whom the pictures are worth this much: the higher is better, equal is a tie."""
    return "left" if left > right else "right" if right > left else "tie"


def from_scores(
    prompt: str,
    pictures: Sequence[Reference],
    scores: Sequence[Sequence[float]],
    by: Sequence[str],
    criterion: str = "",
) -> Iterator[Compared]:
    """Yield all pairs of the ``pictures (K)`` of a prompt, judged by their ``scores``, one list ``(K)`` a person.

    Higher is better, equal a tie; ``by`` names the persons, "" one that is unknown. k pictures make C(k, 2) pairs that
    share one person's effort, so each weighs 1 / C(k, 2): a ranking counts as much as a single comparison.
    """
    if len(pictures) > MANY:
        raise BadRow(f"{len(pictures)} pictures of one prompt, the limit is {MANY}")
    if any(len(score) != len(pictures) for score in scores):
        raise BadRow(f"{len(pictures)} pictures, but {[len(score) for score in scores]} scores")
    if len(pictures) < 2:
        raise BadRow("fewer than two pictures of this prompt: nothing to compare")
    pairs = list(combinations(range(len(pictures)), 2))
    for first, second in pairs:
        votes = [said(name, better(score[first], score[second])) for name, score in zip(by, scores, strict=True)]
        yield Compared(
            prompt,
            pictures[first],
            pictures[second],
            tuple(ballot for ballots, _ in votes for ballot in ballots),
            sum((counts for _, counts in votes), NO_VOTES),
            weight=1 / len(pairs),
            criterion=criterion,
        )


def from_ranks(
    prompt: str, pictures: Sequence[Reference], ranks: Sequence[Sequence[float]], by: Sequence[str], criterion: str = ""
) -> Iterator[Compared]:
    """Yield all pairs as `from_scores` does, from ranks: 1 is the best, and a lower rank is better."""
    yield from from_scores(prompt, pictures, [[-rank for rank in ranking] for ranking in ranks], by, criterion)
