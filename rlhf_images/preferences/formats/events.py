"""Everything as it happened: the folder's own files, with each event of the store as a line of JSON.

    events.jsonl      id, type, pair, annotator, choice, swapped, again, strength, ms, undoes, text, tags, at
    pairs.jsonl, pictures.jsonl, images/    as in a folder of pairs

So rounds that several people labelled apart are merged: import each into one folder; an event that is there already is
not stored again. Undone votes, skips, flags and comments are kept, and all pairs, judged or not.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from ...errors import BadInput
from ..events import Event
from ..pairs import Counts, Picture, PreferencePair, jsonl, lines
from .compared import Compared
from .layout import Export, Group, Splits
from .own import NAME
from .rows import BadRow, Reference, Row, plain_text, real
from .tables import Unread, rows_of

FIELDS = {field.name for field in fields(Event)}


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield a row for each pair, with its events and what is known about its pictures."""
    for name in ("pairs.jsonl", "events.jsonl"):
        if not (source / name).is_file():
            raise BadInput(f"{source}: no {name} in it; expected what 'export-pairs --format events' writes")
    events: dict[str, list[tuple[int, Event]]] = {}
    for number, found in enumerate(rows_of(source / "events.jsonl", "events.jsonl")):
        event = found if isinstance(found, Unread) else _event(found)
        if isinstance(event, Unread):
            yield event
        else:
            events.setdefault(event.pair, []).append((number, event))
    pictures = _pictures(source / "pictures.jsonl")
    for found in rows_of(source / "pairs.jsonl", "pairs.jsonl"):
        if isinstance(found, Unread):
            yield found
            continue
        sides = {side: pictures.get(str(found.values.get(side))) for side in ("left", "right")}
        told = {"events": events.get(str(found.values.get("pair")), []), "pictures": sides}
        yield (Row(found.file, found.number, {**found.values, **told}),)


def _pictures(path: Path) -> dict[str, Picture]:
    """Return what pictures.jsonl tells, as far as it is as ours are."""
    found: dict[str, Picture] = {}
    for row in rows_of(path, path.name) if path.is_file() else []:
        if isinstance(row, Row):
            with suppress(BadRow):
                seed, index = (int(row.real(name)) for name in ("seed", "index"))
                picture = Picture(row.text("id"), row.text("prompt"), seed, index, row.table("settings"))
                found[picture.id] = picture
    return found


def pairs(group: Group) -> Iterator[Compared]:
    """Yield a pair with its history."""
    (row,) = group
    counts = row.table("counts") if row.has("counts") else {}
    happened = row.value("events")
    if not isinstance(happened, list) or not all(isinstance(found, tuple) for found in happened):
        raise BadRow("'events' are not those of events.jsonl")
    try:
        pair = PreferencePair(
            row.text("pair"),
            row.text("prompt"),
            row.text("left"),
            row.text("right"),
            row.real("weight") if row.has("weight") else 1.0,
            row.text_or("", "criterion"),
            Counts(**{name: real(value, "counts") for name, value in counts.items()}),
        )
    except (TypeError, ValueError) as error:
        raise BadRow(" ".join(str(error).split())) from None
    if not NAME.match(pair.pair):
        raise BadRow(f"'pair' is no id: {pair.pair[:80]!r}")
    known = row.table("pictures")
    yield Compared(
        pair.prompt,
        Reference(f"images/{pair.left}", row, known=known.get("left")),
        Reference(f"images/{pair.right}", row, known=known.get("right")),
        counts=pair.counts,
        weight=pair.weight,
        criterion=pair.criterion,
        name=pair.pair,
        events=tuple(happened),
    )


def _event(row: Row) -> Event | Unread:
    """Return the event of a line, or why it is none."""
    unknown = row.values.keys() - FIELDS
    try:
        if unknown:
            raise BadRow(f"no event has '{min(unknown)[:80]}'")
        return Event(
            id=row.text("id"),
            type=row.text("type"),  # type: ignore[arg-type]  # an event checks its own type and choice
            pair=row.text("pair"),
            annotator=row.text("annotator"),
            choice=row.text_or("", "choice") or None,  # type: ignore[arg-type]
            swapped=row.values.get("swapped") is True,
            again=row.values.get("again") is True,
            strength=int(row.real("strength")) if row.has("strength") else 1,
            ms=int(row.real("ms")) if row.has("ms") else None,
            undoes=row.text_or("", "undoes") or None,
            text=row.text_or("", "text"),
            tags=tuple(plain_text(tag, "tags") for tag in row.items("tags")) if row.has("tags") else (),
            at=row.real("at") if row.has("at") else 0.0,
        )
    except (BadRow, BadInput) as error:
        return Unread(row.file, row.number, str(error))


def write(export: Export, out: Path) -> Splits:
    """Write all pairs whose pictures are whole, judged or not, all their events, and the pictures."""
    (out / "images").mkdir()
    kept = {pair.pair: pair for pair in export.every}
    pictures = dict.fromkeys(picture for pair in kept.values() for picture in (pair.left, pair.right))
    for picture in pictures:
        (out / "images" / f"{picture}.png").write_bytes(export.picture(picture))
    told = (export.pairs.pictures[picture] for picture in pictures if picture in export.pairs.pictures)
    (out / "pictures.jsonl").write_bytes(jsonl(asdict(picture) for picture in told))
    (out / "pairs.jsonl").write_bytes(lines(kept.values()))
    events = (event for event in export.pairs.store.events() if event.pair in kept)
    rows = (asdict(event) | {"annotator": export.names[event.annotator], "tags": list(event.tags)} for event in events)
    (out / "events.jsonl").write_bytes(jsonl(rows))
    return {}
