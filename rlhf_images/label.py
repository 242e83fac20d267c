"""Stage `label`: choices for the pairs of a folder, by a person on the page or by a script: any reward plus noise."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .config import differences
from .errors import BadInput
from .files import write_json
from .preferences import Choice, Event, Pairs, PreferencePair
from .preferences.assignment import Assignment
from .preferences.events import CHOICES, SCRIPTED, other_side
from .preferences.next_step import next_command
from .preferences.summary import summarise, told
from .progress import progress, say
from .randomness import Randomness
from .reward import Reward
from .runs import elapsed

BATCH = 64


def label_by_hand(
    pairs: Pairs,
    *,
    annotator: str | None,
    overlap: int,
    gold: Mapping[str, Choice],
    order: Sequence[str] | None = None,
    host: str,
    port: int | None,
    token: str | None,
    open_browser: bool,
) -> None:
    """Serve the page of ``pairs`` until Ctrl-C, then say what came of it and what comes next.

    ``annotator`` is who votes where the page's address names nobody; None asks. ``gold`` are known answers, ``order``
    the pairs to ask about first (default: at random).
    """
    assignment = Assignment(pairs, overlap=overlap, gold=gold, order=order)
    if annotator is not None and not assignment.progress(annotator)[1]:
        raise BadInput(
            f"{pairs.folder}: nothing is left for '{annotator}', each pair has its {overlap} votes; --overlap"
            f" {overlap + 1} asks one more person"
        )
    from .labelling.server import PORT, serve

    serve(
        assignment,
        annotator=annotator,
        host=host,
        port=PORT if port is None else port,
        token=token,
        open_browser=open_browser,
        next_step=lambda summary: next_command(pairs, summary),
    )
    done, total = assignment.progress(annotator) if annotator is not None else (0, 1)
    over = done >= total or len(pairs.labelled()) == len(pairs.pairs)
    tell(pairs, gold, blind=not over)


def tell(pairs: Pairs, gold: Mapping[str, Choice], *, blind: bool = False) -> None:
    """Print the round in numbers and the next command; ``blind`` as in `told`."""
    summary = summarise(pairs, gold)
    say(told(summary, blind=blind))
    if summary.votes and summary.comparison is None:
        say(f"next: {next_command(pairs, summary)}")
    elif blind and summary.votes:
        say("which of the two was preferred is told when the round is over, or by --stats")


def read_gold(file: str) -> dict[str, Choice]:
    """Return pair → known answer of a file with one ``{"pair": …, "choice": …}`` a line."""
    gold: dict[str, Choice] = {}
    try:
        for number, line in enumerate(Path(file).read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                row = json.loads(line)
                if row["choice"] not in CHOICES or not isinstance(row["pair"], str):
                    raise ValueError(f"line {number}: a choice is one of {', '.join(CHOICES)}")
                gold[row["pair"]] = row["choice"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f'--gold {file}: cannot be read ({error}); write one {{"pair": "…", "choice": "left"}} a line'
        ) from None
    return gold


def label_scripted(pairs: Pairs, name: str, taste: Reward, noise: float, seed: int = 0) -> None:
    """Let the annotator ``scripted:<name>`` vote on every one of ``pairs`` on which it has not voted.

    It prefers what ``taste`` prefers, which is the picture with the higher score unless the reward has its own way, and
    with probability ``noise`` in [0, 0.5] it says the opposite. Equal scores are a tie. So no model can agree with more
    than 1 − noise of its decided votes: the ceiling, written to ``labels/<annotator>.json`` beside the votes.
    """
    if not 0 <= noise <= 0.5:
        raise BadInput(f"--noise {noise}: a probability of the opposite answer, from 0 to 0.5")
    if taste.can.groupwise:
        raise BadInput(f"{name}: scores groups of pictures, and a pair has none; choose another annotator")
    annotator = f"{SCRIPTED}{name}"
    known = pairs.store.voted(annotator)
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
        new += len(
            pairs.store.add(
                [
                    Event(str(uuid.uuid4()), "vote", pair.pair, annotator, other_side(choice) if flip else choice)
                    for pair, choice, flip in zip(batch, choices, flips.tolist(), strict=True)
                ]
            )
        )
    before = float(json.loads(card.read_text(encoding="utf-8"))["seconds"]) if known else 0.0
    if new:
        write_json(
            card, _described(annotator, noise, seed) | {"votes": len(known) + new, "seconds": before + elapsed()}
        )
    next_step = next_command(pairs, summarise(pairs))
    say(f"{annotator}: {new} new votes, {len(pairs.pairs)} pairs in {pairs.folder}; next: {next_step}")


def _choices(pairs: Pairs, batch: list[PreferencePair], taste: Reward) -> list[Choice]:
    """Return what ``taste`` prefers in each pair; pairs of the same sizes are judged together."""
    left, right = ([pairs.image(getattr(pair, side)) for pair in batch] for side in ("left", "right"))
    preferred = torch.full((len(batch),), torch.nan)
    shapes = [(one.shape, other.shape) for one, other in zip(left, right, strict=True)]
    for shape in dict.fromkeys(shapes):
        rows = [row for row, found in enumerate(shapes) if found == shape]
        first, second = (torch.stack([images[row] for row in rows]) for images in (left, right))
        with torch.no_grad():
            said = taste.prefer(left=first, right=second, prompts=[batch[row].prompt for row in rows])
        preferred[rows] = said.mean.float().cpu().masked_fill(~said.valid.cpu(), torch.nan)
    if bool(preferred.isnan().any()):
        pair = batch[int(preferred.isnan().nonzero()[0, 0])]
        raise BadInput(f"the scripted annotator cannot judge pair {pair.pair} of '{pair.prompt}'; give it one that can")
    return ["left" if value > 0.5 else "right" if value < 0.5 else "tie" for value in preferred.tolist()]


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
