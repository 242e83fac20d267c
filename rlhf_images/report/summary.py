"""`summary.json`: two generators or more on the same prompts and seeds, in numbers, the first of them the base."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..recorded import Recorded, drift
from ..statistics import diversity, mean_estimate, paired_tests, win_rate


def summarise(generators: Mapping[str, Recorded], deciding: str, card: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the summary of ``generators`` by name; the win rate is the second's against the first, by ``deciding``."""
    (base_name, base), (_, tuned), *others = generators.items()
    summary: dict[str, Any] = {"judge": deciding, **against(base, tuned, deciding), "prompts": len(base.names)}
    for name, found in generators.items():
        summary |= {f"{key}_{name}": value for key, value in means(found).items()}
    if others:
        summary["generators"] = {
            name: means(found) | ({} if name == base_name else against(base, found, deciding))
            for name, found in generators.items()
        }
    if card is not None:
        keys = ("held_out_accuracy", "held_out_accuracy_ci", "ceiling", "pairs_train", "pairs_held_out", "split")
        summary["reward_model"] = {key: card.get(key) for key in keys}
    return summary


def against(base: Recorded, other: Recorded, deciding: str) -> dict[str, Any]:
    """Return how often ``other`` is preferred to ``base`` by a judge, how sure that is, and how far it has gone."""
    rows = min(base.count, other.count)
    before, after = (found.scores.get(deciding, np.full(rows, np.nan))[:rows] for found in (base, other))
    known = np.isfinite(before) & np.isfinite(after)
    prompts = [prompt for prompt, told in zip(base.prompts[:rows], known, strict=True) if told]
    gone = drift(other, base)
    if not prompts:
        return {"win_rate": None, "win_rate_ci": None, "win_rate_pairs": 0, "win_rate_clusters": 0, **gone}
    difference = (after - before)[known]
    estimate = win_rate((np.sign(difference) + 1) / 2, prompts)
    change = mean_estimate(difference, prompts)
    tests = paired_tests(difference, prompts)
    return {
        "win_rate": estimate.value,
        "win_rate_ci": [estimate.low, estimate.high],
        "win_rate_pairs": estimate.n,
        "win_rate_clusters": estimate.clusters,
        "change": change.value,
        "change_ci": [change.low, change.high],
        "tests": None if tests is None else asdict(tests),
        **gone,
    }


def means(found: Recorded) -> dict[str, float | None]:
    """Return the mean score of each judge, None where it failed on all, and the diversity within prompts."""
    known = {name: scores[np.isfinite(scores)] for name, scores in found.scores.items()}
    averages = {name: float(scores.mean()) if len(scores) else None for name, scores in known.items()}
    return {**averages, "diversity": _diversity(found)}


def _diversity(found: Recorded) -> float | None:
    if len(set(found.prompts)) == found.count:
        return None
    value = diversity(found.thumbnails, found.prompts)
    return value if math.isfinite(value) else None
