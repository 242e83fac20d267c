"""A folder of pairs: pictures by content hash, the pairs, and every vote ever given, in files a person can read.

pairs/
  images/<id>.png     one picture; its id is the SHA-256 of its bytes
  pictures.jsonl      id, prompt, seed, index and sampling settings of each
  pairs.jsonl         pair id, prompt, left and right picture id
  votes.db            SQLite: an append-only table of events
"""

import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, final, get_args

import torch
from torch import Tensor

from ..data import decode
from ..errors import BadInput
from ..files import write_atomically

Choice = Literal["left", "right", "tie", "both_bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Row = TypeVar("Row", "Picture", "PreferencePair")


@final
@dataclass(frozen=True)
class Picture:
    """A generated picture: ``id`` is the SHA-256 of its PNG; ``settings`` say how to draw it again."""

    id: str
    prompt: str
    seed: int
    index: int
    settings: dict[str, Any]


@final
@dataclass(frozen=True)
class PreferencePair:
    """Two pictures of one prompt, by picture id."""

    pair: str
    prompt: str
    left: str
    right: str


@final
@dataclass(frozen=True)
class LabelledPair:
    """A pair with its votes counted. ``preference`` in [0, 1] is the soft target P(left is better)."""

    pair: PreferencePair
    left: int
    right: int
    tie: int
    both_bad: int

    @property
    def preference(self) -> float:
        """Return (left + ½ ties) / all votes, in which both bad counts as a tie."""
        ties = self.tie + self.both_bad
        return (self.left + ties / 2) / (self.left + self.right + ties)


@final
class Pairs:
    """A folder of pairs, open for reading and for votes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "pairs.jsonl").is_file():
            raise BadInput(f"{folder}: no pairs in it (no pairs.jsonl); make some with 'rlhf-images generate'")
        self.pairs = _read(self.folder / "pairs.jsonl", PreferencePair)
        self.pictures = {picture.id: picture for picture in _read(self.folder / "pictures.jsonl", Picture)}
        if not self.pairs:
            raise BadInput(f"{folder}: its pairs.jsonl is empty; make some pairs with 'rlhf-images generate'")

    @classmethod
    def create(
        cls, folder: str | Path, images: Iterable[tuple[bytes, Picture]], pairs: Sequence[PreferencePair]
    ) -> "Pairs":
        """Write a folder of pairs: encoded ``images`` with their descriptions, then the pairs."""
        folder = Path(folder)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for data, picture in images:
            write_atomically(folder / "images" / f"{picture.id}.png", data)
            rows.append(asdict(picture))
        write_atomically(folder / "pictures.jsonl", _jsonl(rows))
        write_atomically(folder / "pairs.jsonl", _jsonl([asdict(pair) for pair in pairs]))
        return cls(folder)

    def image(self, picture_id: str) -> Tensor:
        """Return a picture as ``(3, H, W)`` in [0, 1]. Raises `BadInput` for one that is missing or corrupt."""
        path = self.folder / "images" / f"{picture_id}.png"
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != picture_id:
                raise ValueError("its bytes are not those of its name")
            return decode(data)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: corrupt picture ({error})") from None

    def vote(self, annotator: str, votes: Sequence[tuple[str, Choice]]) -> int:
        """Store ``(pair id, choice)`` votes, all or none, on disk when this returns; return how many were new.

        A vote that repeats the annotator's newest on its pair is not new, so that sending a batch twice stores it once.
        """
        known = {pair.pair for pair in self.pairs}
        for pair, choice in votes:
            if pair not in known or choice not in CHOICES:
                raise BadInput(f"{self.folder}: no pair '{pair}' or no choice '{choice}'")
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            before = database.total_changes
            for pair, choice in votes:
                newest = database.execute(
                    "SELECT choice FROM events WHERE type = 'vote' AND pair = ? AND annotator = ?"
                    " ORDER BY number DESC LIMIT 1",
                    (pair, annotator),
                ).fetchone()
                if newest != (choice,):
                    database.execute(
                        "INSERT INTO events (id, type, pair, annotator, choice, at) VALUES (?, 'vote', ?, ?, ?, ?)",
                        (str(uuid.uuid4()), pair, annotator, choice, time.time()),
                    )
            return database.total_changes - before

    def voted(self, annotator: str) -> set[str]:
        """Return the ids of the pairs on which ``annotator`` has voted."""
        with self._database() as database:
            return {
                row[0]
                for row in database.execute(
                    "SELECT DISTINCT pair FROM events WHERE type = 'vote' AND annotator = ?", (annotator,)
                )
            }

    def labelled(self) -> list[LabelledPair]:
        """Return every pair with at least one vote, in the order of the pairs; an annotator's newest vote counts."""
        newest: dict[tuple[str, str], str] = {}
        with self._database() as database:
            for pair, annotator, choice in database.execute(
                "SELECT pair, annotator, choice FROM events WHERE type = 'vote' ORDER BY number"
            ):
                newest[pair, annotator] = choice
        counts: dict[str, dict[str, int]] = {}
        for (pair, _), choice in newest.items():
            counts.setdefault(pair, dict.fromkeys(CHOICES, 0))[choice] += 1
        return [LabelledPair(pair, **counts[pair.pair]) for pair in self.pairs if pair.pair in counts]

    def unreadable(self, pairs: Iterable[PreferencePair]) -> dict[str, str]:
        """Return the ids of the ``pairs`` with a missing or corrupt picture, each with the reason."""
        found: dict[str, str] = {}
        for pair in pairs:
            try:
                self.image(pair.left), self.image(pair.right)
            except BadInput as error:
                found[pair.pair] = str(error)
        return found

    def batches(self, pairs: Sequence[PreferencePair], size: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Yield ``left (B, 3, H, W), right (B, 3, H, W), prompts`` of ``pairs``, at most ``size`` a time."""
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            yield (
                torch.stack([self.image(pair.left) for pair in part]),
                torch.stack([self.image(pair.right) for pair in part]),
                [pair.prompt for pair in part],
            )

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Open the votes for one transaction, which is on disk when this ends."""
        path = self.folder / "votes.db"
        try:
            with closing(sqlite3.connect(path, timeout=30)) as database, database:
                database.execute("PRAGMA synchronous = EXTRA")  # the folder too, so that a power cut loses no commit
                database.execute(
                    "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL,"
                    " type TEXT NOT NULL, pair TEXT NOT NULL, annotator TEXT NOT NULL, choice TEXT, at REAL NOT NULL)"
                )
                database.execute("CREATE INDEX IF NOT EXISTS by_pair ON events (pair, annotator)")
                yield database
        except sqlite3.DatabaseError as error:
            raise BadInput(f"{path}: cannot be used ({error})") from None


def picture_id(data: bytes) -> str:
    """Return the id of a picture with these encoded bytes."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, kind: type[Row]) -> list[Row]:
    try:
        return [kind(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None


def _jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
