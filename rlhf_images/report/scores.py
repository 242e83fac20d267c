"""How each score went from base to tuned, and what more the scores tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from ..statistics import diversity_by_prompt, mean_estimate
from .content import REWARD, Content
from .words import finite, places

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


def changes_of(content: Content) -> list[Change]:
    """Return the change of every score to show: the reward, the deciding judge, the other judges, diversity."""
    return [_change(content, name) for name in _names(content)]


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


def base_band(content: Content) -> tuple[float, float] | None:
    """Return the 95 % interval of the base's diversity over prompts, None where fewer than two prompts tell."""
    pictures, prompts = [pair.base for pair in content.compared], [pair.prompt for pair in content.compared]
    spreads = diversity_by_prompt(pictures, prompts)
    if len(spreads) < 2:
        return None
    estimate = mean_estimate(list(spreads.values()), list(spreads))
    return estimate.low, estimate.high
