"""Taking pairs in: any layout into a folder of pairs, beside whatever is there already.

Taking the same source in twice changes nothing, and what an interrupted import left is completed by the same command:
pictures are named by their content, pairs are the same if they compare the same, votes if they say the same.
"""

import hashlib
import json
import os
import shlex
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import final

from ...errors import BadInput
from ...files import write_atomically
from ...progress import progress, say
from ..events import Event, other_side, standing
from ..folder import SET_ASIDE, SHOWN
from ..pairs import Counts, Pairs, Picture, PreferencePair, jsonl, lines, store_of
from ..store import Store
from ..writing import Refused
from .compared import Ballot, Compared
from .layout import Group, Importer
from .own import NAME
from .rows import BadRow, Reference
from .shelf import Shelf
from .tables import Unread

EVENTS = uuid.UUID("6b1f0c0e-8a3e-5d0f-9c57-2f6f0a4b7f11")
"""The namespace of imported votes' ids: any constant, but always this one."""


def import_pairs(
    name: str,
    layout: Importer,
    source: str,
    folder: str,
    *,
    images: str | None = None,
    criterion: str | None = None,
    store_url: str | None = None,
) -> None:
    """Take the pairs of ``source`` in ``layout``, called ``name``, into ``folder``, which may hold pairs already.

    Pictures are looked for in ``source`` and, if given, in the folder ``images``. Where a layout tells several answers
    on a pair, those to ``criterion`` are taken, or else to the first. A row that cannot be used is told with its number
    and reason and written to ``set_aside.jsonl``; the others go in. If none can be used, nothing is changed.
    """
    if images is not None and not Path(images).is_dir():
        raise BadInput(f"--images {images}: no such folder")
    if not Path(source).exists():
        raise BadInput(f"{source}: no such file or folder")
    intake = Intake(Path(folder), Shelf(Path(source), Path(images) if images else None), name, criterion)
    for group in progress(layout.groups(Path(source)), "import"):
        intake.group(layout, group)
    if not intake.taken and intake.passed:
        raise BadInput(f"{source}: no answers to '{criterion}'; there are some to {', '.join(intake.passed)}")
    if not intake.taken:
        reason = f"the first reason: {intake.aside[0][0]}: {intake.aside[0][1]}" if intake.aside else "it has no rows"
        raise BadInput(f"{source}: no pair in it can be used as '{name}' ({reason}); nothing was changed")
    intake.finish(store_url)
    intake.tell(store_url)


@final
class Intake:
    """A folder of pairs that grows. Nothing but pictures is written before `finish`."""

    def __init__(self, folder: Path, shelf: Shelf, layout: str, criterion: str | None) -> None:
        self.folder, self.shelf, self.layout, self.criterion = folder, shelf, layout, criterion
        there = Pairs(folder) if (folder / "pairs.jsonl").is_file() else None
        if there is None and folder.exists() and any(path.name != "images" for path in folder.iterdir()):
            raise BadInput(f"{folder}: holds files but no pairs; give a new folder, or one of pairs")
        self.pictures: dict[str, Picture] = dict(there.pictures) if there else {}
        self.pairs: dict[str, PreferencePair] = {pair.pair: pair for pair in there.pairs} if there else {}
        self.before = dict(self.pairs)
        self.of_content = {_content(pair): pair.pair for pair in self.pairs.values()}
        self.counts: dict[str, Counts] = {}
        """Nameless votes of this source."""
        self.ballots: list[tuple[str, Ballot]] = []
        self.history: dict[str, tuple[float, int, Event]] = {}
        """Events that came as events, by id: when, and where in the source."""
        self.taken: Counter[str] = Counter()
        """How often each pair was met in this source."""
        self.passed: Counter[str] = Counter()
        """How many pairs told of other criteria."""
        self.aside: list[tuple[str, str]] = []
        """Where, and why."""

    def group(self, layout: Importer, group: Group | Unread) -> None:
        """Take in what a group of rows tells, and set aside what cannot be used, each picture with its own row."""
        if isinstance(group, Unread):
            self.aside.append((group.place, group.reason))
            return
        place = group[0].place if len(group) == 1 else f"{group[0].place} and {len(group) - 1} more"
        told: set[tuple[str, str]] = set()
        try:
            for compared in layout.pairs(group):
                if self.criterion is None:
                    self.criterion = compared.criterion
                if compared.criterion != self.criterion:
                    self.passed[compared.criterion] += 1
                    continue
                try:
                    self.take(compared)
                except Unusable as error:
                    told.add((error.reference.row.place, str(error)))
        except BadRow as error:
            told.add((place, str(error)))
        self.aside += sorted(told)

    def take(self, compared: Compared) -> None:
        """Take in a pair and its votes. Raises `BadRow`, having taken nothing."""
        left, left_data = self._read(compared.left)
        right, right_data = self._read(compared.right)
        if left == right:
            raise BadRow("both pictures are the same")
        found = PreferencePair("", compared.prompt, left, right, compared.weight, compared.criterion)
        for picture, data, reference in ((left, left_data, compared.left), (right, right_data, compared.right)):
            self._keep(picture, data, compared.prompt, reference)
        name = self.of_content.get(_content(found))
        if name is None:
            name = self._name(compared.name, found)
            self.pairs[name] = replace(found, pair=name)
            self.of_content[_content(found)] = name
        swapped = self.pairs[name].left != left
        self.taken[name] += 1
        counts = compared.counts.turned() if swapped else compared.counts
        self.counts[name] = self.counts.get(name, Counts()) + counts
        self.ballots += [(name, _turned(ballot) if swapped else ballot) for ballot in compared.ballots]
        for number, event in compared.events:
            turned = replace(event, choice=other_side(event.choice), swapped=not event.swapped) if swapped else event
            self.history[event.id] = event.at, number, replace(turned, pair=name)

    def finish(self, store_url: str | None) -> None:
        """Write what was taken in: votes first, the list of pairs last, each whole or not at all."""
        for name, counts in self.counts.items():
            before = self.before[name].counts if name in self.before else Counts()
            if not before.total:
                self.pairs[name] = replace(self.pairs[name], counts=counts)
            elif counts.total and counts != before:
                self.aside.append((f"pair {name}", "it has other nameless votes here already, which were kept"))
        os.sync()  # the pictures, before anything names them
        listed = lines(self.pairs.values())
        store = store_of(self.folder, listed, store_url)
        events = [*self._before(listed, store_url), *self._events()]
        self._store(store, events)
        write_atomically(self.folder / "pictures.jsonl", jsonl(asdict(one) for one in self.pictures.values()))
        write_atomically(self.folder / "pairs.jsonl", listed)
        if self.aside:
            told = jsonl({"from": self.layout, "row": place, "reason": reason} for place, reason in self.aside)
            write_atomically(self.folder / SET_ASIDE, told)

    def _store(self, store: Store, events: list[Event]) -> None:
        """Store the events, all but those that contradict what is there: these are set aside."""
        while True:
            try:
                with store.writing() as writing:
                    writing.add(events, dated=True)
                return
            except Refused as refused:
                self.aside += [(f"event {name}", reason) for name, reason in refused.reasons.items()]
                events = [event for event in events if event.id not in refused.reasons]

    def _before(self, listed: bytes, store_url: str | None) -> list[Event]:
        """Return what happened before, if the list of pairs changes: a changed list is another round of the store."""
        path = self.folder / "pairs.jsonl"
        if not path.is_file() or path.read_bytes() == listed:
            return []
        store = Pairs(self.folder, store_url).store
        if not store.events():
            return []
        with store.writing() as writing:
            if writing.leases():
                raise BadInput(f"{self.folder}: somebody is labelling it now; import when they have stopped")
            return [event for _, event in writing.events()]

    def tell(self, store_url: str | None) -> None:
        """Say what went in and what did not."""
        for place, reason in self.aside[:SHOWN]:
            say(f"set aside: {place}: {reason}")
        if len(self.aside) > SHOWN:
            say(f"set aside: {len(self.aside) - SHOWN} more; all are in {self.folder / SET_ASIDE}")
        if self.passed:
            others = ", ".join(f"'{name}' ({count})" for name, count in self.passed.most_common())
            say(f"taken: answers to '{self.criterion}'; left: {others}: choose with --criterion, into another folder")
        new = len(self.pairs) - len(self.before)
        votes = sum(event.type == "vote" and not event.again for event in standing(self._events()))
        nameless = sum(counts.total for counts in self.counts.values())
        learn = ["rlhf-images", "train-reward", "head/reward.yaml", f"pairs={self.folder}"]
        learn += [f"store={Store(store_url).name}"] if store_url else []
        next_step = shlex.join([*learn, f"out={self.folder.parent / 'reward'}"])
        say(
            f"{self.folder}: {new} new pairs of {len(self.taken)}, {votes} votes of named annotators, {nameless:g} of"
            f" unknown ones, {len(self.aside)} set aside; next: {next_step}, or label {self.folder}"
        )

    def _read(self, reference: Reference) -> tuple[str, bytes]:
        try:
            return self.shelf.read(reference)
        except BadRow as error:
            raise Unusable(reference, str(error)) from None

    def _keep(self, picture: str, data: bytes, prompt: str, reference: Reference) -> None:
        """Write a picture that is not there yet."""
        path = self.folder / "images" / f"{picture}.png"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, sync=False)
        if picture not in self.pictures:
            told = {"imported": self.layout, **({"model": reference.model} if reference.model else {})}
            self.pictures[picture] = reference.known or Picture(picture, prompt, 0, len(self.pictures), told)

    def _name(self, wanted: str, pair: PreferencePair) -> str:
        """Return an id for a new pair: the ``wanted`` one if it is free, else one made of what the pair compares."""
        if NAME.match(wanted) and wanted not in self.pairs:
            return wanted
        content = json.dumps([pair.prompt, pair.criterion, *sorted((pair.left, pair.right))])
        for attempt in range(1000):
            name = hashlib.sha256(f"{content}{attempt or ''}".encode()).hexdigest()[:16]
            if name not in self.pairs:
                return name
        raise BadRow("no free id for its pair")

    def _events(self) -> Iterator[Event]:
        """Yield the votes as events: those that came as events with their own ids, in order of time."""
        yield from (event for _, _, event in sorted(self.history.values(), key=lambda found: found[:2]))
        met: Counter[tuple[str, str]] = Counter()
        for pair, ballot in self.ballots:
            met[pair, ballot.annotator] += 1
            said = asdict(ballot) | {"pair": pair, "time": met[pair, ballot.annotator]}
            yield Event(str(uuid.uuid5(EVENTS, json.dumps(said, sort_keys=True))), "vote", pair, **asdict(ballot))


class Unusable(BadRow):
    """A picture that cannot be used, and the row that names it."""

    def __init__(self, reference: Reference, reason: str) -> None:
        super().__init__(reason)
        self.reference = reference


def _content(pair: PreferencePair) -> tuple[str, str, frozenset[str]]:
    """Return what a pair compares, whichever side its pictures are on."""
    return pair.prompt, pair.criterion, frozenset((pair.left, pair.right))


def _turned(ballot: Ballot) -> Ballot:
    return replace(ballot, choice=other_side(ballot.choice))
