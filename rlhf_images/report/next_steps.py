"""What to do next: a rule from what is known, so that nobody has to guess what a verdict asks for."""

from dataclasses import dataclass
from typing import Literal, final

from ..preferences.agreement import votes_needed
from .content import Content
from .words import NBSP, finite, number, percent

Outcome = Literal["better", "mixed", "unclear", "worse", "unknown"]
TELLING = 0.6
"""The true win rate for which the number of votes that it needs is told."""
LEASH = "Tune again from the base with a higher algorithm.kl_weight or a lower optimizer.lr."


@final
@dataclass(frozen=True)
class Next:
    """One thing to do, and the command that does it, if one does."""

    text: str
    command: str | None = None


def next_steps(content: Content, outcome: Outcome) -> list[Next]:
    """Return what to do, the decision first."""
    found = _STEPS[outcome](content)
    return [Next("The run goes on: this is said of its newest evaluation."), *found] if content.unfinished else found


def _better(content: Content) -> list[Next]:
    if content.votes:
        return [Next("Ship it: people prefer it, and nothing that was looked for speaks against it."), *_best(content)]
    votes = f"{votes_needed(TELLING)} votes tell a true {percent(TELLING)} from an even split"
    told = f"Let people judge, blind, before you ship it: {votes}; then write this page anew."
    return [Next(told, content.compare_command), *_best(content)]


def _mixed(content: Content) -> list[Next]:
    return [Next("Do not ship it as it is: read the warnings, and look at the worst pictures."), *_mend(content)]


def _worse(content: Content) -> list[Next]:
    return [Next("Do not ship it: keep the base."), *_best(content), *_mend(content)]


def _unclear(content: Content) -> list[Next]:
    found = [Next("Do not ship it for this: nothing shows that it is better.")]
    if content.votes:
        found.append(Next(f"Go on with the votes: {_votes(content)}.", content.compare_command))
    else:
        found.append(Next("More pictures make the interval narrower (evaluation.final_seeds_per_prompt)."))
    return [*found, Next("If it stays so: a reward from more votes, or more steps.")]


def _unknown(content: Content) -> list[Next]:
    return [Next("Draw pictures of both.", content.evaluate_command)]


def _votes(content: Content) -> str:
    """Return how many votes would tell the rate that was seen from an even split, as far as any would."""
    rate, given = content.votes[-1].value, content.votes[-1].votes
    if rate in (0, 0.5, 1) or (needed := votes_needed(rate)) <= given:
        return "that there is no difference cannot be shown, only that it is small"
    return f"were {percent(rate)} the truth, about {number(needed, 0)} would tell it from an even split"


def _best(content: Content) -> list[Next]:
    """Say how the best checkpoint does, where it is not the last one and was compared too."""
    row = content.generators.get("best", {})
    rate, bounds = finite(row.get("win_rate")), row.get("win_rate_ci") or (None, None)
    low, step = finite(bounds[0]), finite(content.best.get("step"))
    if rate is None or low is None or low <= 0.5 or step is None:
        return []
    told = f"The checkpoint of step {number(step, 0)}, in best/, is preferred over the base in {percent(rate)} of pairs"
    return [Next(f"{told} (95{NBSP}% CI from {percent(low)}): look at it too.")]


def _mend(content: Content) -> list[Next]:
    found = []
    if content.quiet:
        told = f"Look at step {number(content.quiet, 0)}, the last evaluation before the first sign of an alarm."
        found.append(Next(told, content.quiet_command))
    elif content.quiet == 0:
        found.append(Next("No checkpoint is free of it: the first evaluation already shows signs of an alarm."))
    if content.alarms:
        told = "Judge the pictures that raised the newest alarm, and train the reward again with these votes too."
        found.append(Next(told, content.alarm_command))
    return [*found, Next(LEASH)]


_STEPS = {"better": _better, "mixed": _mixed, "unclear": _unclear, "worse": _worse, "unknown": _unknown}
