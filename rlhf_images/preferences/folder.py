"""Any folder of pictures grouped by prompt, as a folder of pairs beside it: ``drawings/`` becomes ``drawings-pairs/``.

  drawings/a red fox/1.png, 2.jpg …     a folder a prompt: its name, or the text in its prompt.txt
  drawings/metadata.jsonl               or one line {"file_name": "1.png", "text": "a red fox"} a picture

Nothing is written into the folder itself.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

from ..data import decode
from ..errors import BadInput
from ..files import write_atomically, write_json
from ..progress import progress, say
from ..prompts import MAX_CHARACTERS
from .pairs import Pairs, Picture, PreferencePair, picture_id

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"}
"""Of the files in a prompt's folder that are taken for pictures."""
MAX_BYTES = 256 << 20
"""Bytes of one encoded picture."""
SET_ASIDE = "set_aside.jsonl"
SHOWN = 10
"""Pictures set aside that are told one by one; all are in the folder's `SET_ASIDE`."""


def pairs_of(folder: str | Path, store_url: str | None = None) -> Pairs:
    """Return the folder of pairs at ``folder``, or that of the pictures in it, which is made if it is not there yet.

    Raises `BadInput` for a folder that has neither.
    """
    folder = Path(folder)
    if (folder / "pairs.jsonl").is_file() or not folder.is_dir():
        return Pairs(folder, store_url)
    grouped = _by_metadata(folder) if (folder / "metadata.jsonl").is_file() else _by_folder(folder)
    if not any(grouped.values()):
        raise BadInput(
            f"{folder}: no pairs in it, and no pictures by prompt; make pairs with 'rlhf-images generate', or give a"
            ' folder with a sub-folder of pictures a prompt, or a metadata.jsonl of {"file_name": …, "text": …} lines'
        )
    beside = folder.resolve().with_name(f"{folder.resolve().name}-pairs")
    names = [[prompt, [path.name for path in paths]] for prompt, paths in grouped.items()]
    listed = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    if not _continues(beside, listed):
        Intake(folder, beside).run(grouped, listed)
    say(f"the pairs of {folder} and the votes on them are in {beside}")
    return Pairs(beside, store_url)


@final
class Intake:
    """One taking-in of pictures: they are copied by content, the unusable ones are set aside with their reason."""

    def __init__(self, source: Path, out: Path) -> None:
        self.source, self.out = source, out
        self.kept: dict[str, list[str]] = {}
        """Prompt → ids of its pictures."""
        self.aside: list[tuple[str, str]] = []
        """Path in the source, and why."""

    def run(self, grouped: dict[str, list[Path]], listed: str) -> None:
        """Write the folder of pairs, or raise `BadInput` if no two pictures of a prompt can be used."""
        new = not self.out.exists()
        try:
            self.out.mkdir(exist_ok=True)
            write_json(self.out / SOURCE, {"folder": str(self.source.resolve()), "listed": listed})
            Pairs.create(self.out, self._pictures(grouped), self._pairs())
        except BadInput:
            if new:
                shutil.rmtree(self.out)
            raise
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS):
                raise BadInput(f"{self.out}: cannot be written ({error.strerror}); copy {self.source} first") from None
            raise
        rows = [json.dumps({"file": file, "reason": reason}, ensure_ascii=False) for file, reason in self.aside]
        write_atomically(self.out / SET_ASIDE, "".join(f"{row}\n" for row in rows).encode())
        for file, reason in self.aside[:SHOWN]:
            say(f"set aside: {file} ({reason})")
        if len(self.aside) > SHOWN:
            say(f"set aside: {len(self.aside) - SHOWN} more, all in {self.out / SET_ASIDE}")

    def _pictures(self, grouped: dict[str, list[Path]]) -> Iterator[tuple[bytes, Picture]]:
        """Yield the pictures that are whole, each once a prompt."""
        files = [(prompt, path) for prompt, paths in grouped.items() for path in paths]
        for prompt, path in progress(files, "pictures"):
            name = str(path.relative_to(self.source)) if path.is_relative_to(self.source) else str(path)
            try:
                data = _read(path, self.source)
            except (OSError, ValueError) as error:
                self.aside.append((name, " ".join(str(error).split())))
                continue
            found = picture_id(data)
            if found in self.kept.setdefault(prompt, []):
                self.aside.append((name, "the same as another of its prompt"))
                continue
            self.kept[prompt].append(found)
            yield data, Picture(found, prompt, 0, len(self.kept[prompt]) - 1, {"file": name})

    def _pairs(self) -> Iterator[PreferencePair]:
        """Yield each prompt's pictures two by two, in the order of their hashes; an odd one meets the first.

        Read after all pictures were.
        """
        number = 0
        for prompt, ids in self.kept.items():
            mixed = sorted(ids)
            if len(mixed) < 2:
                self.aside.append((prompt, "a prompt with fewer than two pictures that can be used"))
                continue
            if len(mixed) % 2:
                mixed.append(mixed[0])
            for left, right in zip(mixed[::2], mixed[1::2], strict=True):
                yield PreferencePair(f"{number:06d}", prompt, left, right)
                number += 1
        if not number:
            file, reason = self.aside[0]
            raise BadInput(f"{self.source}: no two pictures of a prompt can be used ({file}: {reason})")


SOURCE = "source.json"


def _continues(beside: Path, listed: str) -> bool:
    """Return whether ``beside`` holds the pairs already; refuse a folder that is not ours to write into."""
    if not beside.exists():
        return False
    if (beside / SOURCE).is_file() and (beside / "pairs.jsonl").is_file():
        try:
            before = json.loads((beside / SOURCE).read_text(encoding="utf-8"))["listed"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{beside / SOURCE}: cannot be read ({error}); move {beside} away to begin anew") from None
        if before != listed:
            say(f"{beside}: pictures came or went since; the round goes on with those it began with")
        return True
    if not (beside / SOURCE).is_file() and any(beside.iterdir()):
        raise BadInput(f"{beside}: the pairs would be written there, and it holds something else; move it away")
    return False


def _by_metadata(folder: Path) -> dict[str, list[Path]]:
    """Return prompt → its pictures, from ``metadata.jsonl``."""
    grouped: dict[str, list[Path]] = {}
    path = folder / "metadata.jsonl"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            name, text = row["file_name"], row["text"]
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError("no text")
        except (ValueError, KeyError, TypeError):
            raise BadInput(f'{path}, line {number}: not {{"file_name": "…", "text": "…"}}') from None
        grouped.setdefault(_prompt(text, f"{path}, line {number}"), []).append(folder / name)
    return grouped


def _by_folder(folder: Path) -> dict[str, list[Path]]:
    """Return prompt → its pictures, from the sub-folders."""
    grouped: dict[str, list[Path]] = {}
    for inner in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        pictures = sorted(path for path in inner.glob("[!.]*") if path.suffix.lower() in ENDINGS and path.is_file())
        if not pictures:
            continue
        text = inner.name
        if (inner / "prompt.txt").is_file():
            try:
                text = (inner / "prompt.txt").read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:
                raise BadInput(f"{inner / 'prompt.txt'}: cannot be read ({error})") from None
        grouped.setdefault(_prompt(text, str(inner)), []).extend(pictures)
    return grouped


def _prompt(text: str, place: str) -> str:
    prompt = text.strip()
    if not prompt or len(prompt) > MAX_CHARACTERS:
        raise BadInput(f"{place}: a prompt of {len(prompt)} characters; 1 to {MAX_CHARACTERS}")
    return prompt


def _read(path: Path, root: Path) -> bytes:
    """Return the bytes of a whole picture below ``root``. Raises `ValueError` or `OSError` with the reason."""
    found = path.resolve(strict=True)
    if not found.is_relative_to(root.resolve()):
        raise ValueError("leads out of the folder")
    if found.stat().st_size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    data = found.read_bytes()
    decode(data)
    return data
