"""What follows a round of votes: the command that trains a reward model on them."""

import json
import shlex

from ..data import DIGIT_CAPTIONS
from .events import is_script
from .pairs import Pairs
from .summary import Summary


def next_command(pairs: Pairs, summary: Summary) -> str:
    """Return the command that trains a reward model on the votes of the round.

    On everybody's, or where a script voted beside people on theirs.
    """
    digits = any(pair.prompt in DIGIT_CAPTIONS for pair in pairs.pairs)
    words = ["rlhf-images", "train-reward", "digits/reward.yaml" if digits else "head/reward.yaml"]
    words.append(f"pairs={pairs.folder}")
    name = "reward"
    if people := beside_scripts(summary):
        words.append(f"annotator={json.dumps(people, ensure_ascii=False)}")
        name = "reward-people"
    if pairs.store.url.drivername != "sqlite":
        words.append(f"store={pairs.store.name}")
    words.append(f"out={pairs.folder.parent / name}")
    return shlex.join(words)


def beside_scripts(summary: Summary) -> list[str]:
    """Return the people who voted, whoever voted most first, where a script voted too; nobody where none did."""
    voters = [one for one in summary.annotators if one.votes]
    if not any(is_script(one.annotator) for one in voters):
        return []
    people = [one for one in voters if not is_script(one.annotator)]
    return [one.annotator for one in sorted(people, key=lambda one: -one.votes)]
