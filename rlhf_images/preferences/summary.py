"""A round in numbers, for the page and the terminal: who voted how, how far to trust it, and what comes out."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from ..statistics import Estimate, mean_estimate, win_rate
from .agreement import (
    WIN_RATES,
    Share,
    bradley_terry,
    ceiling,
    detectable,
    elo,
    krippendorff_alpha,
    position_bias,
    self_agreement,
    votes_needed,
)
from .events import FAST_MS, Choice, Event, is_script, standing
from .pairs import Pairs

PAUSE_S = 120
"""A longer time between two votes is a pause, and no work."""


@final
@dataclass(frozen=True)
class AnnotatorSummary:
    """What one person did; a quantity that nothing is known of yet is None."""

    annotator: str
    votes: int
    """That count: one a pair."""
    repeats: int
    """Answers to pairs that came a second time, with their sides swapped; no votes."""
    left: int
    right: int
    tie: int
    both_bad: int
    skipped: int
    flagged: int
    fast: int
    """Votes after less than 600 ms."""
    votes_per_minute: float | None
    """Pauses above two minutes left out."""
    self_agreement: Share | None
    """Of the swapped repeats, decided both times."""
    ceiling: tuple[float, float, float] | None
    """The best accuracy that a reward model can have on this person, and its 95 % interval."""
    left_share: Share | None
    """Of the decided answers, repeats included: the left of the screen; ½ is no bias."""
    gold: Share | None
    """Of the votes on pairs with a known answer: the right ones."""


@final
@dataclass(frozen=True)
class Comparison:
    """``after`` against ``before``: ties count half, or only the decided votes; intervals clustered by prompt."""

    before: str
    after: str
    win_rate: Estimate
    decided: Estimate | None


@final
@dataclass(frozen=True)
class Summary:
    """A round."""

    votes: int
    """That count: the newest of each person on each pair."""
    pairs: int
    labelled: int
    """Pairs with at least one vote."""
    annotators: tuple[AnnotatorSummary, ...]
    alpha: float | None
    """Krippendorff's α between the people, of the four choices."""
    alpha_ordinal: float | None
    """The same from left much better to right much better."""
    decided: int
    """Votes for left or right, of people if any voted; the comparison and the ranking are theirs too."""
    detectable: float
    """The smallest win rate that so many decided votes tell from ½ with 80 % power; 1 where none."""
    votes_needed: dict[str, int]
    """Win rate → decided votes that tell it from ½ with 80 % power."""
    comparison: Comparison | None
    """Only where the pictures come from two sources."""
    ranking: dict[str, float]
    """Source of pictures → Bradley–Terry strength on Elo's scale, the best first; empty where there is only one."""

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self)


def summarise(pairs: Pairs, gold: Mapping[str, Choice] | None = None, *, people_only: bool = False) -> Summary:
    """Return the summary of the round of ``pairs``; ``gold`` are the known answers of some of them.

    What the round has decided is what people said, where any did; ``people_only`` leaves out scripts altogether.
    """
    known = {pair.pair for pair in pairs.pairs}
    events = [event for event in standing(pairs.store.events()) if event.pair in known]
    if people_only:
        events = [event for event in events if not is_script(event.annotator)]
    votes, repeats = newest(events, again=False), newest(events, again=True)
    by_people = [vote for vote in votes if not is_script(vote.annotator)]
    telling = by_people or votes  # a script's taste is the answer only where no person gave one
    decided = [vote for vote in telling if vote.choice in ("left", "right")]
    people = sorted({event.annotator for event in events})
    alone = len({vote.annotator for vote in by_people}) < 2
    comparison, ranking = _sources(pairs, telling)
    return Summary(
        votes=len(votes),
        pairs=len(pairs.pairs),
        labelled=len({vote.pair for vote in votes}),
        annotators=tuple(_annotator(name, events, votes, repeats, gold or {}) for name in people),
        alpha=None if alone else krippendorff_alpha(by_people),
        alpha_ordinal=None if alone else krippendorff_alpha(by_people, ordinal=True),
        decided=len(decided),
        detectable=detectable(len(decided)),
        votes_needed={f"{rate:.2f}": votes_needed(rate) for rate in WIN_RATES},
        comparison=comparison,
        ranking=ranking,
    )


def newest(events: Sequence[Event], *, again: bool) -> list[Event]:
    """Return, of events that stand, the newest vote (or answer to a repeat) of each person on each pair, in order."""
    chosen = {(e.pair, e.annotator): e for e in events if e.type == "vote" and e.again is again}
    ids = {event.id for event in chosen.values()}
    return [event for event in events if event.id in ids]


def _annotator(
    name: str, events: Sequence[Event], votes: Sequence[Event], repeats: Sequence[Event], gold: Mapping[str, Choice]
) -> AnnotatorSummary:
    own = [event for event in events if event.annotator == name]
    mine, again = ([event for event in of if event.annotator == name] for of in (votes, repeats))
    agreement = self_agreement(mine, again)
    tested = [vote for vote in mine if vote.pair in gold]
    done = {vote.pair for vote in mine}
    return AnnotatorSummary(
        annotator=name,
        votes=len(mine),
        repeats=len(again),
        left=sum(vote.choice == "left" for vote in mine),
        right=sum(vote.choice == "right" for vote in mine),
        tie=sum(vote.choice == "tie" for vote in mine),
        both_bad=sum(vote.choice == "both_bad" for vote in mine),
        skipped=len({event.pair for event in own if event.type == "skip" and not event.again} - done),
        flagged=len({event.pair for event in own if event.type == "flag"}),
        fast=sum(vote.ms is not None and vote.ms < FAST_MS for vote in (*mine, *again)),
        votes_per_minute=_pace([event.at for event in own if event.type == "vote"]),
        self_agreement=agreement,
        ceiling=(ceiling(agreement.value), ceiling(agreement.low), ceiling(agreement.high)) if agreement else None,
        left_share=position_bias([*mine, *again]),
        gold=Share.of(sum(vote.choice == gold[vote.pair] for vote in tested), len(tested)),
    )


def _pace(times: Sequence[float]) -> float | None:
    """Return votes a minute from the ``times`` of votes, in order; None where too few tell."""
    steps = [after - before for before, after in itertools.pairwise(times) if 0 <= after - before <= PAUSE_S]
    return 60 * len(steps) / sum(steps) if sum(steps) > 1 else None


def _sources(pairs: Pairs, votes: Sequence[Event]) -> tuple[Comparison | None, dict[str, float]]:
    """Return what the votes say of the sources of the pictures, where a pair has pictures of two of them."""
    source = {name: picture.source for name, picture in pairs.pictures.items()}
    between = {
        pair.pair: (pair.prompt, source.get(pair.left, ""), source.get(pair.right, ""))
        for pair in pairs.pairs
        if source.get(pair.left) != source.get(pair.right)
    }
    told = [(vote, *between[vote.pair]) for vote in votes if vote.pair in between]
    if not told:
        return None, {}
    wins = [(left, right) if vote.choice == "left" else (right, left) for vote, _, left, right in told if _won(vote)]
    ties = [(left, right) for vote, _, left, right in told if not _won(vote)]
    ranking = {name: elo(strength) for name, strength in bradley_terry(wins, ties).items()}
    kinds = {(left, right) for _, left, right in between.values()}
    if len(kinds) != 1:
        return None, ranking
    ((before, after),) = kinds
    value = {"left": 0.0, "right": 1.0}
    scores = [value.get(str(vote.choice), 0.5) for vote, *_ in told]
    prompts = [prompt for _, prompt, _, _ in told]
    decided = [(score, prompt) for score, prompt in zip(scores, prompts, strict=True) if score != 0.5]
    only = mean_estimate([score for score, _ in decided], [prompt for _, prompt in decided]) if decided else None
    return Comparison(before, after, win_rate(scores, prompts), only), ranking


def _won(vote: Event) -> bool:
    return vote.choice in ("left", "right")


def told(summary: Summary, *, blind: bool = False) -> str:
    """Return the summary as the lines that end a round, or that ``label --stats`` prints.

    ``blind`` leaves out what those who still vote must not know: whose pictures win, and how the gold pairs go.
    """
    if blind:
        people = tuple(replace(person, gold=None) for person in summary.annotators)
        summary = replace(summary, annotators=people, comparison=None, ranking={})
    lines = [f"{summary.votes} votes on {summary.labelled} of {summary.pairs} pairs"]
    for person in summary.annotators:
        lines.append(f"{person.annotator}: {'; '.join(_said(person))}")
    if summary.alpha is not None:
        graded = f" ({summary.alpha_ordinal:.2f} graded)" if summary.alpha_ordinal is not None else ""
        lines.append(f"agreement between people: Krippendorff's alpha {summary.alpha:.2f}{graded}; 1 perfect, 0 chance")
    if summary.comparison is not None:
        lines.append(_compared(summary.comparison))
    if summary.ranking:
        lines.append("ranking (Elo): " + ", ".join(f"{name} {value:.0f}" for name, value in summary.ranking.items()))
    lines.append(_more(summary))
    return "\n".join(lines)


def _said(person: AnnotatorSummary) -> list[str]:
    counts = {"left": person.left, "right": person.right, "ties": person.tie, "both bad": person.both_bad}
    said = [f"{person.votes} votes ({', '.join(f'{name} {count}' for name, count in counts.items())})"]
    said += [f"{person.repeats} more on pairs that came twice"] if person.repeats else []
    said += [f"{n} {name}" for name, n in (("skipped", person.skipped), ("flagged", person.flagged)) if n]
    said += [f"{person.fast} faster than {FAST_MS} ms"] if person.fast else []
    if person.votes_per_minute is not None:
        said.append(f"{person.votes_per_minute:.0f} votes a minute")
    if person.left_share is not None:
        said.append(f"left of the screen {_share(person.left_share)}")
    if person.self_agreement is not None and person.ceiling is not None:
        best, low, high = person.ceiling
        said.append(
            f"agrees with themselves on {_share(person.self_agreement)} of swapped repeats, so no reward model can be"
            f" right more often than {best:.0%} ({low:.0%} to {high:.0%})"
        )
    if person.gold is not None:
        said.append(f"right on {_share(person.gold)} of gold pairs")
    return said


def _share(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}, {share.count} of {share.n})"


def _compared(found: Comparison) -> str:
    rate, only = found.win_rate, found.decided
    bare = f"; of the decided votes alone {only.value:.1%} ({only.low:.1%} to {only.high:.1%})" if only else ""
    return (
        f"'{found.after}' preferred to '{found.before}' in {rate.value:.1%} of {rate.n} votes, ties counted half"
        f" (95 % interval {rate.low:.1%} to {rate.high:.1%}, clustered by {rate.clusters} prompts){bare}"
    )


def _more(summary: Summary) -> str:
    """Return what more labels would gain."""
    further = {rate: needed - summary.decided for rate, needed in summary.votes_needed.items()}
    left = [f"{count} more tell {float(rate):.0%}" for rate, count in further.items() if count > 0][::-1]
    now = (
        f"{summary.decided} decided votes tell a win rate of {summary.detectable:.0%} or more from chance"
        if summary.detectable < 1
        else f"{summary.decided} decided votes tell no win rate from chance yet"
    )
    return f"{now} (80 % power){'; ' + ', '.join(left) if left else ''}"
