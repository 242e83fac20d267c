"""The stage ``train-reward``: a folder of labelled pairs becomes a reward model and a card that says how good it is."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, TypeAlias, final

import numpy as np
import torch
from pydantic import Field

from rlhf_images.config import NonNegative
from rlhf_images.errors import BadInput
from rlhf_images.files import sweep, write_atomically, write_json
from rlhf_images.preferences.events import Whose, counts
from rlhf_images.preferences.pairs import LabelledPair, Pairs
from rlhf_images.preferences.summary import Summary, summarise
from rlhf_images.progress import say
from rlhf_images.runs import Run

from .card import verdict
from .card_text import as_markdown
from .comparisons import compared, split
from .family import Lesson
from .measured import card_of
from .picture_page import picture_page
from .towers import TowersConfig
from .train_checklist import ChecklistConfig
from .train_clip import ClipConfig
from .train_head import HeadConfig
from .train_vision_language import VisionLanguageConfig

AnyFamily: TypeAlias = TowersConfig | HeadConfig | ClipConfig | VisionLanguageConfig | ChecklistConfig
"""The config's ``model`` section: one of these, told apart by ``name``."""
REFERENCE_SIZE = 1000
"""How many quantiles of the training pictures' scores a model keeps at most."""
ENOUGH_REPEATS = 20
"""Repeated pairs, decided both times, from which on a person's agreement with themselves says something."""


@final
@dataclass(frozen=True)
class TrainRewardConfig:
    """From votes to a reward model."""

    pairs: str
    """The folder of labelled pairs."""
    out: str
    """Where the model and its card are written."""
    store: str | None = None
    """The database of the votes, where that is not the folder's own."""
    annotator: Whose = None
    """Whose votes teach, a name or a list of them; everybody's where not given."""
    seed: NonNegative = 0
    """Seed of the split, the weights and the order of the pairs."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the pairs kept aside to measure the model on; the others teach it."""
    model: AnyFamily = field(default_factory=TowersConfig)
    """The family of models, by its ``name``, and how it learns."""
    probed: NonNegative = 16
    """Held-out pictures that are edited in twelve ways to see what the model leans on; 0 saves that time."""


def train_reward(config: TrainRewardConfig) -> None:
    """Run the stage: read the votes, train, measure on pairs held out, write the model and its card to ``out``."""
    run = Run("train_reward", config, config.out)
    pairs = Pairs(config.pairs, config.store)
    labelled = pairs.labelled(config.annotator)
    votes = votes_hash(labelled)
    if run.finished:
        if run.record.get("votes", votes) != votes:
            raise BadInput(
                f"{config.out}: the votes in {config.pairs} have changed since this model was trained, and it is kept;"
                f" the same command with out={beside(config.out)} trains another on the votes of now"
            )
        say(f"{config.out}: the reward model is already trained; nothing to do")
        return
    run.record["votes"] = votes
    if not labelled:
        names = (config.annotator,) if isinstance(config.annotator, str) else config.annotator or ()
        whose = "" if config.annotator is None else f" of {', '.join(names) or 'nobody'}"
        raise BadInput(f"{config.pairs}: no votes{whose} in it; give some with 'rlhf-images label'")
    known = config.model.decoded(pairs)
    unread = pairs.unreadable(vote.pair for vote in labelled if not {vote.pair.left, vote.pair.right} <= known)
    for pair, reason in unread.items():
        say(f"set aside: pair {pair} ({reason})")
    labelled = [vote for vote in labelled if vote.pair.pair not in unread]
    labelled.sort(key=lambda vote: vote.pair.pair)  # that the lines of pairs.jsonl have an order teaches nothing
    if not labelled:
        raise BadInput(f"{config.pairs}: no labelled pair can be read; every one of {len(unread)} was set aside")
    summary = summarise(pairs)
    ceiling = noise_ceiling(pairs, config.annotator, summary)
    division = split(labelled, config.held_out, config.seed)
    lesson = Lesson(pairs, labelled, compared(labelled), division, config.seed)
    with isolated_randomness(config.seed):
        run.save()
        sweep(run.folder)
        try:
            taught = config.model.taught(lesson)
        except BadInput:
            run.withdraw()  # the command with the mistake mended is another run, and may have the folder
            raise
    shown = taught.score[lesson.data.shown(division.train)]
    taught.model.reference = torch.quantile(shown, torch.linspace(0, 1, min(len(shown), REFERENCE_SIZE)))
    card = card_of(config.model.name, taught, lesson, summary, ceiling, config.annotator, config.probed)
    taught.save(run.folder)
    write_json(run.folder / "card.json", asdict(card))
    write_atomically(run.folder / "CARD.md", as_markdown(card).encode())
    title = run.folder.name
    page = picture_page(title, verdict(card), card.alarms, pairs, lesson.data, division, taught.score)
    write_atomically(run.folder / "pictures.html", page)
    run.save(
        finished=True, set_aside=unread, held_out_accuracy=card.held_out_accuracy, ceiling=card.ceiling, nll=card.nll
    )
    for alarm in card.alarms:
        say(f"ALARM, {alarm}")
    say(verdict(card))
    if card.measured.learning_curve:
        say(card.measured.learning_curve.words)
    say(f"The reward model is in {config.out}; CARD.md there says how far to trust it, pictures.html what it likes.")


def beside(out: str) -> Path:
    """Return the first of ``out``-2, ``out``-3 … that is not there."""
    folder = Path(out)
    return next(free for n in count(2) if not (free := folder.with_name(f"{folder.name}-{n}")).exists())


def votes_hash(labelled: Sequence[LabelledPair]) -> str:
    """Return a short hash of the labelled pairs and of how often each choice was made on them."""
    return hashlib.sha256(json.dumps([asdict(one) for one in labelled]).encode()).hexdigest()[:12]


def noise_ceiling(pairs: Pairs, annotator: Whose = None, summary: Summary | None = None) -> float | None:
    """Return the mean of the annotators' ceilings, each weighted by its votes, or None where none is known.

    A script's is 1 - noise, in the card ``labels/<annotator>.json`` that ``label`` leaves beside its votes. A person's
    follows from how often they repeat themselves on pairs that came back, once `ENOUGH_REPEATS` did. With ``annotator``
    it is theirs alone.
    """
    people = (summary or summarise(pairs)).annotators
    ceilings = {
        person.annotator: person.ceiling[0]
        for person in people
        if person.ceiling and person.self_agreement and person.self_agreement.n >= ENOUGH_REPEATS
    }
    for path in sorted((pairs.folder / "labels").glob("*.json")):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            if card.get("ceiling") is not None:
                ceilings[str(card["annotator"])] = float(card["ceiling"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{path}: not a card of 'rlhf-images label' ({error}); remove it or label again") from None
    known = [
        (ceilings[person.annotator], person.votes)
        for person in people
        if person.annotator in ceilings and counts(person.annotator, annotator)
    ]
    votes = sum(count for _, count in known)
    return round(sum(ceiling * count for ceiling, count in known) / votes, 6) if votes else None


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed torch for the time of the ``with``, and leave torch's, numpy's and Python's generators as they were."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - transformers seeds this one
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
