"""The first thing on the page: did it get better, how sure is that, what did it cost, and what was not checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from .content import Content, Votes
from .next_steps import Next, Outcome, next_steps
from .notices import Notice, checked, notes, warnings
from .scores import Change, changes_of
from .words import NBSP, duration, finite, number, percent, percent_range


@final
@dataclass(frozen=True)
class Verdict:
    """The view of the section."""

    outcome: Outcome
    headline: str
    sentence: str
    """What the headline rests on: people's votes if there are any, else the deciding judge."""
    also: str
    """What the judge says where people decided."""
    tests: str
    told: str
    """What was tuned, on what, how long."""
    best: str
    """Which checkpoint to take."""
    rate: float | None
    low: float | None
    high: float | None
    human: bool
    notices: Sequence[Notice]
    checked: str
    compare_command: str | None
    """Where it is not among ``next``."""
    next: Sequence[Next]
    names: tuple[str, str]
    changes: Sequence[Change]


def verdict(content: Content) -> Verdict:
    """Return the verdict on ``content``, by people where they voted, else by the judge, never by the reward."""
    votes = content.votes[-1] if content.votes else None
    rate = votes.value if votes else finite(content.summary.get("win_rate"))
    interval = (votes.low, votes.high) if votes else content.summary.get("win_rate_ci") or (None, None)
    low, high = (finite(bound) for bound in interval)
    changes = changes_of(content)
    notices = [*warnings(content, changes), *notes(content, changes)]
    outcome = _outcome(low, high, any(notice.kind == "warning" for notice in notices))
    base = content.names[0]
    headline, ending = {
        "better": (f"Better than {_the(base)}", "."),
        "mixed": ("Preferred, but at a cost", ": preferred, but read the warnings below."),
        "unclear": ("No evidence that it got better", ": no evidence of a change, an even split is in the interval."),
        "worse": (f"Worse than {_the(base)}", f": worse than {_the(base)}."),
        "unknown": ("Not measured", ": without its interval there is no verdict."),
    }[outcome]
    by_judge, following = _sentence(content), next_steps(content, outcome)
    said = [step.command for step in following]
    return Verdict(
        outcome=outcome,
        headline=headline,
        sentence=(_by_people(votes) if votes else by_judge) + ending,
        also=f"{by_judge}." if votes else "",
        tests=_tests(content),
        told=_told(content),
        best=_best(content),
        rate=rate,
        low=low,
        high=high,
        human=votes is not None,
        notices=notices,
        checked=checked(content, changes),
        compare_command=None if content.compare_command in said else content.compare_command,
        next=following,
        names=content.names,
        changes=changes,
    )


def _outcome(low: float | None, high: float | None, warned: bool) -> Outcome:
    if low is None or high is None:
        return "unknown"
    if low > 0.5:
        return "mixed" if warned else "better"
    return "worse" if high < 0.5 else "unclear"


def _sentence(content: Content) -> str:
    rate, interval = finite(content.summary.get("win_rate")), content.summary.get("win_rate_ci") or (None, None)
    if rate is None:
        return f"There is no win rate by the judge ‘{content.judge}’"
    prompts = len({pair.prompt for pair in content.compared})
    clustered = "over the pairs of one prompt" if prompts == 1 else f"clustered by {prompts or '–'} prompts"
    return (
        f"Preferred over {_the(content.names[0])} in {percent(rate)} of"
        f" {number(content.summary.get('win_rate_pairs'), 0)} pairs by the judge ‘{content.judge}’"
        f" (95{NBSP}% CI {percent_range(*interval)}, {clustered})"
    )


def _by_people(votes: Votes) -> str:
    people = "one person" if votes.people == 1 else f"{votes.people} people"
    return (
        f"Preferred over {_the(votes.before)} in {percent(votes.value)} of {votes.votes} blind votes by {people}"
        f" (95{NBSP}% CI {percent_range(votes.low, votes.high)}, clustered by {votes.prompts} prompts)"
    )


def _the(name: str) -> str:
    return "the base" if name == "base" else f"‘{name}’"


def _tests(content: Content) -> str:
    """Return the paired tests of the deciding judge's change in words, or nothing where none could be made."""
    tests = content.summary.get("tests")
    if not tests:
        return ""
    told = ", ".join(
        f"{name} {_probability(tests[key])}"
        for key, name in (("permutation", "permutation"), ("wilcoxon", "Wilcoxon"), ("sign", "sign test"))
    )
    return f"p of no change in ‘{content.judge}’, each of {tests['units']} prompts counted once: {told}."


def _probability(value: Any) -> str:
    known = finite(value)
    return number(None) if known is None else "<0.001" if known < 0.001 else number(known, 3)


def _best(content: Content) -> str:
    step, judge, score = (content.best.get(key) for key in ("step", "judge", "score"))
    if finite(step) is None or not judge:
        return ""
    last = finite(content.evaluations[-1].get("step")) if content.evaluations else None
    told = f"Best checkpoint by ‘{judge}’, on which it was not trained: step {number(step, 0)} ({number(score)})"
    if step == last:
        return f"{told}, which is the last one."
    now = content.evaluations[-1].get(str(judge)) if content.evaluations else None
    return f"{told}; it lies in best/. Step {number(last, 0)}, the last one, has {number(now)}."


def _told(content: Content) -> str:
    """Return what was tuned, on what and how long, as far as that is known."""
    config = content.run.get("config") or {}
    generator, reward, algorithm = (config.get(key) for key in ("generator", "reward", "algorithm"))
    what = generator.get("path") if isinstance(generator, dict) else None
    how = algorithm.get("name") if isinstance(algorithm, dict) else None
    steps = finite(content.metrics[-1].get("step")) if content.metrics else None
    tuning, total = finite(content.run.get("seconds")), finite((content.summary.get("seconds") or {}).get("total"))
    on = reward if isinstance(reward, str) else " + ".join(reward) if reward else None
    parts = [
        "" if not what or not on else f"Tuned: {what}{f' with {how}' if how else ''}, against the reward {on}.",
        "" if steps is None else f"Last step of the tuning: {number(steps, 0)}.",
        f"The run goes on: {content.unfinished}." if content.unfinished else "",
        "" if tuning is None else f"Tuning took {duration(tuning)}.",
        "" if total is None else f"All stages took {duration(total)}.",
    ]
    return " ".join(part for part in parts if part)
