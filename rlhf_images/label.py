"""Stage `label`: choices for the pairs of a folder. Here by a scripted annotator, which is any reward plus noise."""

from pathlib import Path

import torch

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

    It prefers the picture that ``taste`` scores higher, and with probability ``noise`` in [0, 0.5] says the opposite.
    Equal scores are a tie. So no model can agree with more than 1 − noise of its decided votes: the ceiling, which is
    written to ``labels/<annotator>.json`` beside the votes.
    """
    if not 0 <= noise <= 0.5:
        raise BadInput(f"--noise {noise}: a probability of the opposite answer, from 0 to 0.5")
    pairs = Pairs(folder)
    annotator = f"scripted:{name}"
    known = pairs.voted(annotator)
    numbers = [number for number, pair in enumerate(pairs.pairs) if pair.pair not in known]
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
    _record(pairs.folder, annotator, noise, len(pairs.voted(annotator)))
    say(f"{annotator}: {new} new votes, {len(pairs.pairs)} pairs in {folder}; next: rlhf-images train-reward")


def _choices(pairs: Pairs, batch: list[PreferencePair], taste: Reward) -> list[Choice]:
    left, right, prompts = next(pairs.batches(batch, len(batch)))
    with torch.no_grad():
        scored_left, scored_right = (taste.score(images=images, prompts=prompts) for images in (left, right))
    if not bool((scored_left.valid & scored_right.valid).all()):
        row = int((~(scored_left.valid & scored_right.valid)).nonzero()[0, 0])
        raise BadInput(
            f"the scripted annotator cannot judge pair {batch[row].pair} of '{prompts[row]}'; give it one that can"
        )
    difference = (scored_left.mean - scored_right.mean).tolist()
    return ["left" if value > 0 else "right" if value < 0 else "tie" for value in difference]


def _opposite(choice: Choice) -> Choice:
    return {"left": "right", "right": "left"}.get(choice, choice)  # type: ignore[return-value]


def _record(folder: Path, annotator: str, noise: float, votes: int) -> None:
    labels = folder / "labels"
    labels.mkdir(exist_ok=True)
    path = labels / f"{annotator.replace(':', '_').replace('/', '_')}.json"
    if not path.is_file():
        record = {
            "annotator": annotator,
            "noise": noise,
            "ceiling": 1 - noise,
            "votes": votes,
            "seconds": round(elapsed(), 2),
        }
        write_json(path, record)
