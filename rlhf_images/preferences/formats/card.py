"""The data set's card: what a stranger needs to know before using it, and the YAML that the hub reads."""

from collections import Counter
from typing import Any

import yaml

from .layout import Export, Splits

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(export: Export, layout: str, summary: str, splits: Splits) -> str:
    """Return the README of a data set in ``layout``, of which ``summary`` says what it is."""
    head: dict[str, Any] = {
        "pretty_name": "Preferences between pictures",
        "task_categories": ["text-to-image"],
        "tags": ["preference", "rlhf", "human-feedback", layout],
        "size_categories": [next((size for limit, size in SIZES if len(export.voted) < limit), "n>1M")],
    }
    if splits:
        files = [{"split": split, "path": path} for split, path in splits.items()]
        head["configs"] = [{"config_name": "default", "data_files": files}]
    facts = "\n".join(f"| {name} | {value} |" for name, value in _facts(export).items())
    called = "named" if export.named else "numbered, not named"
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

# Preferences between pictures

Pairs of pictures of one prompt, and which one people preferred. Layout `{layout}`: {summary}.

| | |
|---|---|
{facts}

The annotators are {called}. A vote is `left`, `right`, `tie` or `both_bad`; how a tie enters training is the trainer's
choice. Each row has four columns beside the layout's own: `pair` (its id), `criterion` (what was asked, or empty),
`weight` (how much it counts: 1 / C(k, 2) where a ranking of k pictures made it) and `votes` (JSON: every annotator's
newest vote, and counts whose voters are not known).

Licence, source of the pictures, who the annotators are and how they were paid: not known to the program that wrote
this. Say it here.
"""


def _facts(export: Export) -> dict[str, str]:
    votes = Counter(ballot.annotator for judged in export.voted for ballot in judged.ballots)
    nameless = sum(judged.pair.counts.total for judged in export.voted)
    decided = sum(judged.preference != 0.5 for judged in export.voted)
    return {
        "pairs": str(len(export.voted)),
        "of them decided": str(decided),
        "prompts": str(len({judged.pair.prompt for judged in export.voted})),
        "pictures": str(len({side for judged in export.voted for side in (judged.pair.left, judged.pair.right)})),
        "annotators": str(len(votes)),
        "their votes": str(votes.total()),
        "votes of unknown voters": f"{nameless:g}",
    }
