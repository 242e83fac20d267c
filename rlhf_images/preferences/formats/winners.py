"""Two folders, ``w/`` with what won and ``l/`` with what lost, under the same names, captions beside as ``.txt``.

    w/0001.png, w/0001.txt    the winner and the prompt
    l/0001.png, l/0001.txt    the loser

Tied pairs of ours stand in ``ties/left/`` and ``ties/right/``, where no such trainer looks. ``votes.jsonl`` has a line
a pair: its files, prompt, and our columns. Without it, a pair is whatever has the same name in both folders.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import BadInput
from ..folder import ENDINGS
from . import own
from .compared import Compared, said
from .layout import Export, Group, Splits
from .rows import BadRow, Row, plain_text
from .tables import Unread, rows_of

MAX_CAPTION = 1 << 20


def groups(source: Path) -> Iterator[Group | Unread]:
    """Yield the lines of ``votes.jsonl`` where there is one, else a row for each name in both folders."""
    if (source / "votes.jsonl").is_file():
        for row in rows_of(source / "votes.jsonl", "votes.jsonl"):
            yield row if isinstance(row, Unread) else (row,)
        return
    if not (source / "w").is_dir() or not (source / "l").is_dir():
        raise BadInput(f"{source}: no folders w/ and l/ in it")
    won, lost = ({path.stem: path for path in _pictures(source / side)} for side in ("w", "l"))
    for number, name in enumerate(sorted(won | lost), 1):
        if name not in won or name not in lost:
            yield Unread("w and l", number, f"'{name}' is only in {'w' if name in won else 'l'}/")
            continue
        try:
            prompt = _caption(won[name], lost[name])
        except BadRow as error:
            yield Unread("w and l", number, f"'{name}': {error}")
            continue
        files = {"left_file_name": f"w/{won[name].name}", "right_file_name": f"l/{lost[name].name}"}
        yield (Row("w and l", number, {**files, "prompt": prompt}),)


def pairs(group: Group) -> Iterator[Compared]:
    """Yield the pair of a row."""
    (row,) = group
    left, right, prompt = row.picture("left_file_name"), row.picture("right_file_name"), row.text("prompt")
    if row.has("votes"):
        yield own.read(row, prompt, left, right)
    else:
        ballots, counts = said("", "left")
        yield Compared(prompt, left, right, ballots, counts)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not path.is_symlink())


def _caption(*pictures: Path) -> str:
    for picture in pictures:
        for ending in (".txt", ".caption"):
            path = picture.with_suffix(ending)
            if path.is_file() and not path.is_symlink():
                if path.stat().st_size > MAX_CAPTION:
                    raise BadRow(f"{path.name} is no caption: more than {MAX_CAPTION} bytes")
                return plain_text(path.read_bytes().decode("utf-8-sig", "surrogateescape").strip("\r\n"), path.name)
    raise BadRow(f"no caption; expected {pictures[0].with_suffix('.txt').name} beside it")


def write(export: Export, out: Path) -> Splits:
    """Write the folders; a pair's files are named by its id."""
    folders = {1.0: ("w", "l"), 0.0: ("l", "w"), 0.5: ("ties/left", "ties/right")}
    for folder in ("w", "l", "ties/left", "ties/right"):
        if "ties" not in folder or any(judged.preference == 0.5 for judged in export.voted):
            (out / folder).mkdir(parents=True)
    with (out / "votes.jsonl").open("w", encoding="utf-8") as file:
        for judged in export.voted:
            files = {}
            for side, folder in zip(("left", "right"), folders[own.side(judged.preference)], strict=True):
                picture = judged.pair.left if side == "left" else judged.pair.right
                name = export.write(picture, out / folder, judged.pair.pair)
                (out / folder / name).with_suffix(".txt").write_text(judged.pair.prompt, encoding="utf-8", newline="")
                files[f"{side}_file_name"] = f"{folder}/{name}"
            row = {**files, "prompt": judged.pair.prompt, **judged.columns()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {}
