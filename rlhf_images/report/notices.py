"""What questions a verdict, what explains it, and what was looked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from .content import REWARD, Content
from .scores import COLLAPSED, EXTRAPOLATED, Change, extrapolating, held_out, kept
from .words import NBSP, finite, number, percent, places, signed


@final
@dataclass(frozen=True)
class Notice:
    """One sentence beside the verdict: a ``warning`` questions it, a ``note`` explains it."""

    kind: Literal["warning", "note"]
    text: str


def warnings(content: Content, changes: Sequence[Change]) -> list[Notice]:
    """Return what questions the result."""
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


def notes(content: Content, changes: Sequence[Change]) -> list[Notice]:
    """Return what explains it."""
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
    other = content.summary.get("other_guidance")
    if isinstance(other, dict):
        found.append(_drawn_otherwise(content, other))
    return [Notice("note", text) for text in found]


def _drawn_otherwise(content: Content, other: dict[str, Any]) -> str:
    """Return the mean scores of both with another guidance than the one that all else here was drawn with."""
    usual = content.run.get("config", {}).get("generator", {}).get("guidance", 1.0)
    base, tuned = ({**(other.get(name) or {})} for name in ("base", "tuned"))
    told = []
    for name in base:
        decimals = places(finite(base[name]), finite(tuned.get(name)))
        told.append(f"{name} {number(base[name], decimals)} to {number(tuned.get(name), decimals)}")
    return (
        f"With guidance {number(other.get('guidance'))} instead of {number(usual)}, {content.names[0]} to"
        f" {content.names[1]}: {', '.join(told)}."
    )


def checked(content: Content, changes: Sequence[Change]) -> str:
    """Return what was looked for, so that silence is not taken for proof."""
    measured = {change.name for change in changes if change.difference is not None}
    looked = [f"a fall of ‘{name}’" for name in held_out(content) if name in measured]
    looked += ["a trained reward that does not rise"] if REWARD in measured else []
    looked += [f"diversity below {percent(COLLAPSED)} of the base’s"] if kept(content) is not None else []
    looked += ["scores beyond every labelled picture’s"] if extrapolating(content) is not None else []
    return f"Checked: {', '.join(looked) or 'nothing'}. Not checked: anything else, so look at the pictures."
