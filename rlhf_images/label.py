"""Stage `label`: choices for the pairs of a folder. Here by a scripted annotator, which is any reward plus noise."""

import json
from pathlib import Path
from typing import Any

import torch

from .config import differences
from .errors import BadInput
from .files import write_json
from .preferences import Choice, Pairs, PreferencePair
from .progress import progress, say
from .randomness import Randomness
from .reward import Reward
from .runs import elapsed

BATCH = 64


def label_scripted(folder: str, name: str, taste: Reward, noise: float, seed: int = 0) -> None:
    """Let the annotator ``scripted:<name>`` vote on every pair of ``folder`` on which it has not voted.

    It prefers what ``taste`` prefers, which is the picture with the higher score unless the reward has its own way, and
    with probability ``noise`` in [0, 0.5] it says the opposite. Equal scores are a tie. So no model can agree with more
    than 1 − noise of its decided votes: the ceiling, written to ``labels/<annotator>.json`` beside the votes.
    """
    if not 0 <= noise <= 0.5:
        raise BadInput(f"--noise {noise}: a probability of the opposite answer, from 0 to 0.5")
    if taste.can.groupwise:
        raise BadInput(f"{name}: scores groups of pictures, and a pair has none; choose another annotator")
    pairs = Pairs(folder)
    annotator = f"scripted:{name}"
    known = pairs.voted(annotator)
    card = _card(pairs.folder, annotator, noise, seed, bool(known))
    unread = pairs.unreadable(pairs.pairs)
    for pair, reason in unread.items():
        say(f"set aside: pair {pair} ({reason})")
    numbers = [number for number, pair in enumerate(pairs.pairs) if pair.pair not in known | unread.keys()]
    new = 0
    for start in progress(range(0, len(numbers), BATCH), "label"):
        part = numbers[start : start + BATCH]
        batch = [pairs.pairs[number] for number in part]
        choices = _choices(pairs, batch, taste)
        flips = Randomness(seed).uniform(f"noise of {annotator}", part) < noise
        votes = [
            (pair.pair, _opposite(choice) if flip else choice)
            for pair, choice, flip in zip(batch, choices, flips.tolist(), strict=True)
        ]
        new += pairs.vote(annotator, votes)
    before = float(json.loads(card.read_text(encoding="utf-8"))["seconds"]) if known else 0.0
    if new:
        write_json(
            card, _described(annotator, noise, seed) | {"votes": len(known) + new, "seconds": before + elapsed()}
        )
    say(f"{annotator}: {new} new votes, {len(pairs.pairs)} pairs in {folder}; next: rlhf-images train-reward")


def _choices(pairs: Pairs, batch: list[PreferencePair], taste: Reward) -> list[Choice]:
    left, right, prompts = next(pairs.batches(batch, len(batch)))
    with torch.no_grad():
        preferred = taste.prefer(left=left, right=right, prompts=prompts)
    if not bool(preferred.valid.all()):
        row = int((~preferred.valid).nonzero()[0, 0])
        raise BadInput(
            f"the scripted annotator cannot judge pair {batch[row].pair} of '{prompts[row]}'; give it one that can"
        )
    return ["left" if value > 0.5 else "right" if value < 0.5 else "tie" for value in preferred.mean.tolist()]


def _opposite(choice: Choice) -> Choice:
    return {"left": "right", "right": "left"}.get(choice, choice)  # type: ignore[return-value]


def _card(folder: Path, annotator: str, noise: float, seed: int, voted: bool) -> Path:
    """Return the file that says how noisy ``annotator`` is, written before it votes; refuse another noise later."""
    path = folder / "labels" / f"{annotator.replace(':', '_').replace('/', '_')}.json"
    described = _described(annotator, noise, seed)
    if path.is_file() and voted:
        changed = differences(
            {key: json.loads(path.read_text(encoding="utf-8")).get(key) for key in described}, described
        )
        if changed:
            raise BadInput(f"{folder}: {annotator} has voted here otherwise ({'; '.join(changed)}); use the same again")
    else:
        path.parent.mkdir(exist_ok=True)
        write_json(path, described | {"votes": 0, "seconds": 0.0})
    return path


def _described(annotator: str, noise: float, seed: int) -> dict[str, Any]:
    return {"annotator": annotator, "noise": noise, "seed": seed, "ceiling": 1 - noise}
