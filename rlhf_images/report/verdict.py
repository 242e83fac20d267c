"""The first thing on the page: did it get better, how sure is that, what did it cost, and what was not checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from ..statistics import mean_estimate
from .content import REWARD, Content, Votes
from .words import NBSP, duration, finite, number, percent, percent_range, places, signed

Outcome = Literal["better", "mixed", "unclear", "worse", "unknown"]
COLLAPSED = 0.7
"""Below this share of the base's diversity within a prompt, the tuned generator has lost modes."""
EXTRAPOLATED = 0.2
"""Above this share of pictures beyond every labelled one, the reward's rise is a guess."""
DIVERSITY = "diversity"


@final
@dataclass(frozen=True)
class Change:
    """How one score went from base to tuned; ``low`` and ``high`` bound the mean change per pair at 95 %."""

    name: str
    base: float | None
    tuned: float | None
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """Return tuned − base."""
        return None if self.base is None or self.tuned is None else self.tuned - self.base

    @property
    def decimals(self) -> int:
        """Return the decimals all numbers of the row share."""
        return places(self.base, self.tuned)

    @property
    def direction(self) -> Literal["rose", "fell", "unclear"]:
        """Return which way it went, ``unclear`` where the interval includes no change or nothing is known."""
        if self.difference is None:
            return "unclear"
        shown = round(self.difference, self.decimals)
        low = shown if self.low is None else self.low
        high = shown if self.high is None else self.high
        return "rose" if low > 0 else "fell" if high < 0 else "unclear"


@final
@dataclass(frozen=True)
class Notice:
    """One sentence beside the verdict: a ``warning`` questions it, a ``note`` explains it."""

    kind: Literal["warning", "note"]
    text: str


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
    names: tuple[str, str]
    changes: Sequence[Change]


def verdict(content: Content) -> Verdict:
    """Return the verdict on ``content``, by people where they voted, else by the judge, never by the reward."""
    votes = content.votes[-1] if content.votes else None
    rate = votes.value if votes else finite(content.summary.get("win_rate"))
    interval = (votes.low, votes.high) if votes else content.summary.get("win_rate_ci") or (None, None)
    low, high = (finite(bound) for bound in interval)
    changes = [_change(content, name) for name in _names(content)]
    notices = [*_warnings(content, changes), *_notes(content, changes)]
    outcome = _outcome(low, high, any(notice.kind == "warning" for notice in notices))
    base = content.names[0]
    headline, ending = {
        "better": (f"Better than {_the(base)}", "."),
        "mixed": ("Preferred, but at a cost", ": preferred, but read the warnings below."),
        "unclear": ("No evidence that it got better", ": no evidence of a change, an even split is in the interval."),
        "worse": (f"Worse than {_the(base)}", f": worse than {_the(base)}."),
        "unknown": ("Not measured", ": without its interval there is no verdict."),
    }[outcome]
    by_judge = _sentence(content)
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
        checked=_checked(content, changes),
        compare_command=content.compare_command,
        names=content.names,
        changes=changes,
    )


def kept(content: Content) -> float | None:
    """Return the share of the base's diversity that is left, or None where it is not known."""
    base, tuned = (finite(content.summary.get(f"{DIVERSITY}_{which}")) for which in content.names)
    return None if base is None or tuned is None or base <= 0 else tuned / base


def extrapolating(content: Content) -> float | None:
    """Return the share of the tuned pictures that the trained reward puts above all labelled ones, if it is known."""
    known = [value for value in map(finite, content.scores.get(REWARD, ((), ()))[1]) if value is not None]
    if content.highest_labelled is None or not known:
        return None
    return sum(value > content.highest_labelled for value in known) / len(known)


def held_out(content: Content) -> list[str]:
    """Return the names of the judges that were not trained on, the deciding one first."""
    return sorted((name for name in content.scores if name != REWARD), key=lambda name: name != content.judge)


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


def _names(content: Content) -> list[str]:
    """Return every score to show: the reward, the deciding judge, the other judges, diversity."""
    ending = f"_{content.names[0]}"
    summed = [key.removesuffix(ending) for key in content.summary if key.endswith(ending)]
    known = [REWARD, content.judge, *content.scores, *summed]
    return [*(name for name in dict.fromkeys(known) if name != DIVERSITY), DIVERSITY]


def _change(content: Content, name: str) -> Change:
    """Return the summary's means of ``name`` with the interval of the paired change where the scores pair up."""
    base, tuned = (finite(content.summary.get(f"{name}_{which}")) for which in content.names)
    of_base, of_tuned = ([finite(score) for score in column] for column in content.scores.get(name, ([], [])))
    base, tuned = (_mean(of_base) if base is None else base), (_mean(of_tuned) if tuned is None else tuned)
    if not len(of_base) == len(of_tuned) == len(content.compared):
        return Change(name, base, tuned)
    triples = zip(of_base, of_tuned, content.compared, strict=True)
    paired = [(b - a, pair.prompt) for a, b, pair in triples if a is not None and b is not None]
    if not paired:
        return Change(name, base, tuned)
    estimate = mean_estimate([difference for difference, _ in paired], [prompt for _, prompt in paired])
    return Change(name, base, tuned, estimate.low, estimate.high)


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _warnings(content: Content, changes: Sequence[Change]) -> list[Notice]:
    by_name = {change.name: change for change in changes}
    reward = by_name[REWARD]
    found = []
    if reward.difference is not None and reward.direction != "rose":
        found.append("The trained reward itself did not rise: the tuning did not do what it was asked to.")
    for name in held_out(content):
        change = by_name[name]
        if change.direction == "fell":
            while_rising = " while the trained reward rose: it may be exploited, look at the worst pairs"
            ending = while_rising if reward.direction == "rose" else ""
            found.append(f"The held-out judge ‘{name}’ fell from {_from_to(change)}{ending}.")
    share = kept(content)
    if share is not None and share < COLLAPSED:
        found.append(
            f"Mode collapse: the pictures of a prompt keep only {percent(share)} of the base’s diversity; "
            f"{percent(COLLAPSED)} is the least to accept."
        )
    beyond = extrapolating(content)
    if beyond is not None and beyond > EXTRAPOLATED:
        found.append(
            f"{percent(beyond)} of the pictures score above anything that anybody labelled: there the trained reward"
            " is a guess."
        )
    if content.alarms:
        told = ", ".join(f"{alarm.name} (step {alarm.step})" for alarm in content.alarms)
        found.append(f"Alarms came up during the training: {told}. See below.")
    if not held_out(content):
        found.append("No held-out judge: nothing but the reward it was tuned on speaks for the result.")
    elif content.judge == REWARD:
        found.append("The deciding judge is the reward it was tuned on; a held-out one should decide.")
    return [Notice("warning", text) for text in found]


def _from_to(change: Change) -> str:
    decimals = change.decimals
    text = f"{number(change.base, decimals)} to {number(change.tuned, decimals)}"
    if change.low is None or change.high is None:
        return text
    return f"{text} (change 95{NBSP}% CI {signed(change.low, decimals)} to {signed(change.high, decimals)})"


def _notes(content: Content, changes: Sequence[Change]) -> list[Notice]:
    found = []
    share = kept(content)
    if share is None:
        found.append("Diversity within a prompt was not measured.")
    elif COLLAPSED <= share < 1:
        found.append(
            f"Diversity within a prompt fell to {percent(share)} of the base’s; {percent(COLLAPSED)} is the line."
        )
    missing = [change.name for change in changes if change.difference is None and change.name in content.scores]
    if missing:
        found.append(f"Not measured on both sides: {', '.join(missing)}.")
    if len({pair.prompt for pair in content.compared}) == 1:
        found.append("There is only one prompt: the interval is over its pairs and says nothing about other prompts.")
    low, high = content.summary.get("win_rate_ci") or (None, None)
    if low is not None and low == high:
        found.append("Every prompt gave the same rate: an interval without width, which is no proof for other prompts.")
    return [Notice("note", text) for text in found]


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


def _checked(content: Content, changes: Sequence[Change]) -> str:
    """Return what was looked for, so that silence is not taken for proof."""
    measured = {change.name for change in changes if change.difference is not None}
    looked = [f"a fall of ‘{name}’" for name in held_out(content) if name in measured]
    looked += ["a trained reward that does not rise"] if REWARD in measured else []
    looked += [f"diversity below {percent(COLLAPSED)} of the base’s"] if kept(content) is not None else []
    looked += ["scores beyond every labelled picture’s"] if extrapolating(content) is not None else []
    return f"Checked: {', '.join(looked) or 'nothing'}. Not checked: anything else, so look at the pictures."
