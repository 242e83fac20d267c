"""The figures of a round as the page and the terminal show them: blind until it is over, then with the next command."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from .. import config as configs
from ..preferences.assignment import Assignment
from ..preferences.pairs import Pairs
from ..preferences.summary import summarise, told

CONFIG = "sd35_medium/reward.yaml"
"""Of the reward model where no shipped config is about this folder: any size of picture, a backbone of one's own."""


def figures(assignment: Assignment, annotator: str) -> dict[str, Any]:
    """Return the summary of the round as plain values, with ``over``: whether ``annotator`` has nothing left to do.

    Before that, whose pictures win and how the gold pairs go is left out: it would tell what must not be known yet.
    After it, ``next`` is the command to paste.
    """
    done, total = assignment.progress(annotator)
    over = done >= total
    summary = summarise(assignment.pairs, assignment.gold).as_json() | {"over": over}
    if over:
        return summary | {"next": next_command(assignment.pairs)}
    people = [{name: value for name, value in person.items() if name != "gold"} for person in summary["annotators"]]
    return summary | {"annotators": people, "comparison": None, "ranking": {}}


def ending(assignment: Assignment) -> str:
    """Return what the terminal says at the end: the round in words, and the command that uses it."""
    return f"{told(summarise(assignment.pairs, assignment.gold))}\nnext: {next_command(assignment.pairs)}"


def next_command(pairs: Pairs) -> str:
    """Return the command that makes something of the votes: a reward model, or the verdict of a comparison."""
    sources = {picture.id: picture.source for picture in pairs.pictures.values()}
    if any(sources.get(pair.left) != sources.get(pair.right) for pair in pairs.pairs):
        return shlex.join(["rlhf-images", "label", str(pairs.folder), "--stats"])
    for name in configs.shipped():
        if name.endswith("/reward.yaml"):
            tree = yaml.safe_load(configs.find(name).read_text(encoding="utf-8"))
            if Path(tree["pairs"]).resolve() == pairs.folder.resolve():
                return shlex.join(["rlhf-images", "train-reward", name])
    folder = str(pairs.folder)
    return shlex.join(["rlhf-images", "train-reward", CONFIG, f"pairs={folder}", f"out={folder.rstrip('/')}-reward"])
