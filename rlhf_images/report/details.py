"""The later sections: diversity prompt by prompt, the reward model's card, and how to make the run again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import yaml

from ..statistics import diversity as diversity_of
from .content import Compared, Content
from .scores import COLLAPSED, DIVERSITY, base_band, kept
from .words import facts, finite

MAX_PROMPTS = 24
"""Prompts listed under diversity, the most collapsed first."""


@final
@dataclass(frozen=True)
class PromptDiversity:
    """The diversity of one prompt's pictures; ``kept`` is tuned / base."""

    prompt: str
    base: float
    tuned: float
    kept: float | None


@final
@dataclass(frozen=True)
class Diversity:
    """The view of the section; ``most`` is the longest bar."""

    names: tuple[str, str]
    base: float | None
    tuned: float | None
    kept: float | None
    band: tuple[float, float] | None
    """The 95 % interval of the base's diversity over prompts."""
    line: float
    prompts: Sequence[PromptDiversity]
    hidden: int
    most: float


@final
@dataclass(frozen=True)
class RewardModel:
    """The view of the section; ``share`` is the held-out accuracy over the most that the labels' noise allows."""

    accuracy: float | None
    ceiling: float | None
    share: float | None
    facts: Sequence[tuple[str, str]]


@final
@dataclass(frozen=True)
class Reproduction:
    """The view of the section; ``stages`` are seconds and their share of the longest."""

    command: str | None
    facts: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]
    stages: Sequence[tuple[str, float | None, float]]
    config: str


def diversity(content: Content) -> Diversity:
    """Return diversity overall and by prompt."""
    by_prompt: dict[str, list[Compared]] = {}
    for pair in content.compared:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    rows = [_prompt_diversity(prompt, pairs) for prompt, pairs in by_prompt.items() if len(pairs) >= 2]
    rows.sort(key=lambda row: 1.0 if row.kept is None else row.kept)
    base, tuned = (finite(content.summary.get(f"{DIVERSITY}_{which}")) for which in content.names)
    return Diversity(
        names=content.names,
        band=base_band(content),
        base=base,
        tuned=tuned,
        kept=kept(content),
        line=COLLAPSED,
        prompts=rows[:MAX_PROMPTS],
        hidden=max(0, len(rows) - MAX_PROMPTS),
        most=max([1e-9, *(value for row in rows for value in (row.base, row.tuned))]),
    )


def reward_model(content: Content) -> RewardModel:
    """Return the held-out accuracy against its ceiling and the rest of the card, whatever it holds."""
    card = {**(content.reward_card or {}), **(content.summary.get("reward_model") or {})}
    accuracy, ceiling = finite(card.pop("held_out_accuracy", None)), finite(card.pop("ceiling", None))
    share = accuracy / ceiling if accuracy is not None and ceiling else None
    card.pop("measured", None)  # bins and curves: CARD.md has them
    return RewardModel(accuracy, ceiling, share, facts(card))


def reproduction(content: Content) -> Reproduction:
    """Return what it takes to make the run again."""
    run = dict(content.run)
    config, versions, command = run.pop("config", None), run.pop("versions", None), run.pop("command", None)
    seconds = {stage: finite(value) for stage, value in (content.summary.get("seconds") or {}).items()}
    longest = max([1e-9, *(value for stage, value in seconds.items() if value is not None and stage != "total")])
    seed = config.get("seed") if isinstance(config, dict) else None
    run = {"commit": run.pop("commit", None), "seed": seed, **run}
    return Reproduction(
        command=command,
        facts=facts(run),
        versions=facts(versions or {}),
        stages=[(stage, value, min(1.0, (value or 0) / longest)) for stage, value in seconds.items()],
        config=_yaml(config),
    )


def _prompt_diversity(prompt: str, pairs: Sequence[Compared]) -> PromptDiversity:
    names = [prompt] * len(pairs)
    base = diversity_of([pair.base for pair in pairs], names)
    tuned = diversity_of([pair.tuned for pair in pairs], names)
    return PromptDiversity(prompt, base, tuned, tuned / base if base > 0 else None)


def _yaml(config: Any) -> str:
    """Return a config as YAML that `rlhf-images` reads back."""
    return "" if config is None else str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110))
