"""Giving pairs out: the judged pairs of a folder, in any layout, into a folder that did not exist before."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import BadInput
from ...files import sync_folder
from ...progress import progress, say
from ..folder import SHOWN
from ..pairs import Pairs, PreferencePair
from .card import card
from .compared import Ballot
from .layout import Export, Exporter
from .own import Judged


def export_pairs(
    name: str, layout: Exporter, folder: str, out: str, *, store_url: str | None = None, named: bool = True
) -> None:
    """Write the judged pairs of ``folder`` in ``layout``, called ``name``, to ``out``, with a card.

    ``out`` must not exist, or be empty: it appears whole or not at all. Unless ``named``, the annotators are numbered.
    Pairs with a missing or corrupt picture are left out and told.
    """
    target = Path(out)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise BadInput(f"{out}: exists already; give a folder that does not")
    export = prepared(Pairs(folder, store_url), layout, named)
    staged = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        splits = layout.write(export, staged)
        text = card(export, name, layout.summary, splits)
        (staged / "README.md").write_text(text, encoding="utf-8", newline="")
        if target.is_dir():
            target.rmdir()
        staged.replace(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    say(f"{len(export.voted)} judged pairs in {out}, layout {name}")


def prepared(pairs: Pairs, layout: Exporter, named: bool) -> Export:
    """Return what ``layout`` is to write: those pairs that are judged, or all if it wants, and have whole pictures."""
    people = sorted({event.annotator for event in pairs.store.events()})
    names = {name: name if named else f"annotator-{number}" for number, name in enumerate(people, 1)}
    ballots: dict[str, list[Ballot]] = {}
    for vote in pairs.store.votes():
        if vote.choice is not None:
            ballot = Ballot(names[vote.annotator], vote.choice, vote.strength, vote.ms)
            ballots.setdefault(vote.pair, []).append(ballot)
    wanted = [pair for pair in pairs.pairs if layout.unjudged or pair.pair in ballots or pair.counts.total]
    every = _whole(Export(pairs, [], [], names, named), wanted)
    voted = [Judged(pair, tuple(ballots.get(pair.pair, ()))) for pair in every]
    voted = [judged for judged in voted if judged.ballots or judged.pair.counts.total]
    if not every or not (voted or layout.unjudged):
        raise BadInput(f"{pairs.folder}: no judged pair to export; vote with 'rlhf-images label {pairs.folder}'")
    return Export(pairs, every, voted, names, named)


def _whole(export: Export, wanted: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Return the pairs whose pictures are there, unchanged since they were taken in; tell which are left out."""
    reasons: dict[str, str] = {}
    pictures = dict.fromkeys(picture for pair in wanted for picture in (pair.left, pair.right))
    for picture in progress(pictures, "pictures", len(pictures)):
        try:
            export.picture(picture)
        except BadInput as error:
            reasons[picture] = str(error)
    good = [pair for pair in wanted if pair.left not in reasons and pair.right not in reasons]
    bad = [pair for pair in wanted if pair.left in reasons or pair.right in reasons]
    for pair in bad[:SHOWN]:
        say(f"left out: pair {pair.pair}: {reasons.get(pair.left) or reasons[pair.right]}")
    if len(bad) > SHOWN:
        say(f"left out: {len(bad) - SHOWN} more pairs")
    return good
