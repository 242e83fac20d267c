"""Small pictures in several formats, folders of pairs made of them, and what a folder says, whoever wrote it."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, settings

from rlhf_images.data import encode
from rlhf_images.preferences import Pairs, Picture, PreferencePair
from rlhf_images.preferences.formats import EXPORTERS, IMPORTERS
from rlhf_images.preferences.formats.exporting import export_pairs
from rlhf_images.preferences.formats.importing import import_pairs
from rlhf_images.preferences.pairs import picture_id

CAMPAIGN = int(os.environ.get("CAMPAIGN", "1"))
"""How many times more examples than usual; then they are other ones every time."""
FORMS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def fuzz(examples: int) -> settings:
    """Return hypothesis's settings for about ``examples`` tries: the same ones every time, unless in a campaign."""
    return settings(
        max_examples=examples * CAMPAIGN,
        deadline=None,
        derandomize=CAMPAIGN == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@cache
def picture(number: int, form: str | None = None, size: int = 4) -> bytes:
    """Return the bytes of a small picture, each number another, in a format that depends on the number."""
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(number))
    return encode(image, form or FORMS[number % len(FORMS)])


def made(folder: Path, pairs: Sequence[PreferencePair], events: Sequence[Any] = (), pictures: int = 12) -> Pairs:
    """Return a folder of ``pairs``, whose sides are numbers of pictures as text, with ``events`` in its store."""
    data = {str(number): picture(number) for number in range(pictures)}
    ids = {name: picture_id(content) for name, content in data.items()}
    known = [
        (content, Picture(ids[name], "p", 3, int(name), {"model": f"model {name}"})) for name, content in data.items()
    ]
    rows = [PreferencePair(**{**asdict(pair), "left": ids[pair.left], "right": ids[pair.right]}) for pair in pairs]
    folder_of_pairs = Pairs.create(folder, known, rows)
    folder_of_pairs.store.add(events)
    return folder_of_pairs


def taken(name: str, source: Path, folder: Path, **options: Any) -> Pairs:
    """Return the folder into which ``source`` was imported as layout ``name``."""
    import_pairs(name, IMPORTERS[name], str(source), str(folder), **options)
    return Pairs(folder)


def given(name: str, folder: Path, out: Path, **options: Any) -> Path:
    """Return ``out``, to which ``folder`` was exported as layout ``name``."""
    export_pairs(name, EXPORTERS[name], str(folder), str(out), **options)
    return out


def said(pairs: Pairs) -> dict[Any, Any]:
    """Return what was compared and how often each picture won, by whom, whatever its side and the pair's id.

    The keys are (prompt, criterion, the two pictures' bytes), so two folders that say the same are equal.
    """
    votes: dict[str, dict[str, Any]] = {}
    sides = {pair.pair: {"left": pair.left, "right": pair.right} for pair in pairs.pairs}
    for vote in pairs.store.votes():
        votes.setdefault(vote.pair, {})[vote.annotator] = (
            sides[vote.pair].get(str(vote.choice), vote.choice),
            vote.strength,
        )
    found = {}
    for pair in pairs.pairs:
        told = votes.get(pair.pair, {})
        counts = {sides[pair.pair].get(name, name): n for name, n in asdict(pair.counts).items() if n}
        if told or counts:
            content = frozenset(
                (pairs.folder / "images" / f"{side}.png").read_bytes() for side in (pair.left, pair.right)
            )
            found[pair.prompt, pair.criterion, content] = (pair.weight, told, counts)
    return found


def lines(capsys: Any) -> str:
    """Return what was printed."""
    return str(capsys.readouterr().out)
