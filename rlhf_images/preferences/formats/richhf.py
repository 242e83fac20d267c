"""RichHF-18K: pictures of Pick-a-Pic, each with four scores of people, as TFRecord files or as a table made of them.

    filename                                                     ``train/<uid>.png``
    aesthetics_score, artifact_score, misalignment_score, overall_score    0 to 1; higher is better, for all four
    caption                                                      not in the published files: see below

The published files have neither captions nor pictures; both are in Pick-a-Pic under the file's uid. Put the captions
into a ``captions.jsonl`` beside the records, ``{"filename": …, "caption": …}`` a line, and name the pictures' folder as
--images. Pictures of one caption become pairs, by ``overall`` first, then by the others.
"""

from collections.abc import Iterator
from pathlib import Path

from ...errors import BadInput
from .compared import Compared, from_scores
from .layout import Group
from .rows import BadRow, Row
from .tables import Unread, rows, rows_of
from .tfrecord import records

CAPTIONS = "captions.jsonl"
SCORES = ("overall", "aesthetics", "artifact", "misalignment")


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield the rows of each caption together."""
    captions = _captions(source if source.is_dir() else source.parent)
    gathered: dict[str, list[Row]] = {}
    for row in _rows(source):
        if isinstance(row, Unread):
            yield row
            continue
        try:
            row.real("overall_score")
            name = _text(row, "filename")
            if not row.has("caption") and not row.has("prompt"):
                if name not in captions:
                    raise BadRow(f"no caption of '{name[:80]}'; expected one in {CAPTIONS} beside the records")
                row.values["caption"] = captions[name]
            row.values["filename"] = name
            gathered.setdefault(_text(row, "caption", "prompt"), []).append(row)
        except BadRow as error:
            yield Unread(row.file, row.number, str(error))
    yield from (tuple(group) for group in gathered.values())


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pairs of a caption's pictures, once for each score that all of them have."""
    prompt = _text(group[0], "caption", "prompt")
    pictures = [row.picture("image", "filename") for row in group]
    for score in SCORES:
        column = f"{score}_score"
        if all(row.has(column) for row in group):
            yield from from_scores(prompt, pictures, [[row.real(column) for row in group]], [""], score)


def _rows(source: Path) -> Iterator[Row | Unread]:
    """Yield the records of the TFRecord files in ``source``, or the rows of its tables where there are none."""
    files = [source] if source.is_file() else sorted(path for path in source.glob("*") if ".tfrecord" in path.name)
    if not files or (source.is_file() and ".tfrecord" not in source.name):
        yield from (row for row in rows(source) if not row.place.startswith(CAPTIONS))
        return
    for path in files:
        try:
            for number, found in records(path):
                if isinstance(found, BadRow):
                    yield Unread(path.name, number, str(found))
                else:
                    yield Row(path.name, number, found)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: cannot be read ({error})") from None


def _captions(folder: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    if (folder / CAPTIONS).is_file():
        for row in rows_of(folder / CAPTIONS, CAPTIONS):
            if isinstance(row, Row):
                try:
                    captions[row.text("filename")] = row.text("caption", "prompt")
                except BadRow:
                    continue  # the record that needs it will say so
    return captions


def _text(row: Row, *names: str) -> str:
    """Return a text, which a TFRecord holds as bytes."""
    value = row.value(*names)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    return Row(row.file, row.number, {names[0]: value}).text(names[0])
