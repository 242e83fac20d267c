"""The first thing on the page: did it get better, how sure is that, what did it cost, and what was not checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from ..statistics import mean_estimate
from .content import REWARD, Content
from .words import NBSP, duration, finite, number, percent, percent_range, places, signed

Outcome = Literal["better", "mixed", "unclear", "worse", "unknown"]
COLLAPSED = 0.7
"""Below this share of the base's diversity within a prompt, the tuned generator has lost modes."""
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
    effort: str
    rate: float | None
    low: float | None
    high: float | None
    notices: Sequence[Notice]
    checked: str
    compare_command: str | None
    changes: Sequence[Change]


def verdict(content: Content) -> Verdict:
    """Return the verdict on ``content``, by the win rate's interval and never by the training reward."""
    rate = finite(content.summary.get("win_rate"))
    low, high = (finite(bound) for bound in content.summary.get("win_rate_ci") or (None, None))
    changes = [_change(content, name) for name in _names(content)]
    notices = [*_warnings(content, changes), *_notes(content, changes)]
    outcome = _outcome(low, high, any(notice.kind == "warning" for notice in notices))
    headline, ending = {
        "better": ("Better than the base", "."),
        "mixed": ("Preferred, but at a cost", ": preferred, but read the warnings below."),
        "unclear": ("No evidence that it got better", ": no evidence of a change, an even split is in the interval."),
        "worse": ("Worse than the base", ": worse than the base."),
        "unknown": ("Not measured", ": without its interval there is no verdict."),
    }[outcome]
    return Verdict(
        outcome=outcome,
        headline=headline,
        sentence=_sentence(content, rate, low, high) + ending,
        effort=_effort(content),
        rate=rate,
        low=low,
        high=high,
        notices=notices,
        checked=_checked(content, changes),
        compare_command=content.compare_command,
        changes=changes,
    )


def kept(content: Content) -> float | None:
    """Return the share of the base's diversity that is left, or None where it is not known."""
    base, tuned = (finite(content.summary.get(f"{DIVERSITY}_{which}")) for which in ("base", "tuned"))
    return None if base is None or tuned is None or base <= 0 else tuned / base


def held_out(content: Content) -> list[str]:
    """Return the names of the judges that were not trained on, the deciding one first."""
    return sorted((name for name in content.scores if name != REWARD), key=lambda name: name != content.judge)


def _outcome(low: float | None, high: float | None, warned: bool) -> Outcome:
    if low is None or high is None:
        return "unknown"
    if low > 0.5:
        return "mixed" if warned else "better"
    return "worse" if high < 0.5 else "unclear"


def _sentence(content: Content, rate: float | None, low: float | None, high: float | None) -> str:
    if rate is None:
        return f"There is no win rate by the judge ‘{content.judge}’"
    prompts = len({pair.prompt for pair in content.compared})
    clustered = "over the pairs of one prompt" if prompts == 1 else f"clustered by {prompts or '–'} prompts"
    return (
        f"Preferred over the base in {percent(rate)} of {number(content.summary.get('win_rate_pairs'), 0)} pairs "
        f"by the judge ‘{content.judge}’ (95{NBSP}% CI {percent_range(low, high)}, {clustered})"
    )


def _names(content: Content) -> list[str]:
    """Return every score to show: the reward, the deciding judge, the other judges, diversity."""
    summed = [key.removesuffix("_base") for key in content.summary if key.endswith("_base")]
    known = [REWARD, content.judge, *content.scores, *summed]
    return [*(name for name in dict.fromkeys(known) if name != DIVERSITY), DIVERSITY]


def _change(content: Content, name: str) -> Change:
    """Return the summary's means of ``name`` with the interval of the paired change where the scores pair up."""
    base, tuned = (finite(content.summary.get(f"{name}_{which}")) for which in ("base", "tuned"))
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


def _effort(content: Content) -> str:
    """Return how long it took, as far as that is known."""
    steps = finite(content.metrics[-1].get("step")) if content.metrics else None
    tuning, total = finite(content.run.get("seconds")), finite((content.summary.get("seconds") or {}).get("total"))
    parts = [
        "" if steps is None else f"Last step of the tuning: {number(steps, 0)}.",
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
    return f"Checked: {', '.join(looked) or 'nothing'}. Not checked: anything else, so look at the pictures."
