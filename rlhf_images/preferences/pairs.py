"""A folder of pairs: pictures by content hash and the pairs, in files a person can read, and the store of the votes.

pairs/
  images/<id>.png     one picture; its id is the SHA-256 of its bytes, which may be a JPEG's: nobody reads the ending
  pictures.jsonl      id, prompt, seed, index and sampling settings of each
  pairs.jsonl         pair id, prompt, left and right picture id; where it was imported, weight, criterion and counts
  votes.db            what people did, unless the store is elsewhere (see `store`)
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from ..data import decode
from ..errors import BadInput
from ..files import write_atomically
from ..progress import progress
from .database import sqlite_url
from .events import Whose
from .store import Store

Row = TypeVar("Row", "Picture", "PreferencePair")


@final
@dataclass(frozen=True)
class Picture:
    """A picture: ``id`` is the SHA-256 of its bytes; ``settings`` say how to draw it again, or where it came from."""

    id: str
    prompt: str
    seed: int
    index: int
    settings: dict[str, Any]

    @property
    def source(self) -> str:
        """Return what drew it, as far as its settings say: a run, else a generator, else a pipeline's path."""
        named = (self.settings.get(key) for key in ("run", "generator", "path"))
        return next((str(name) for name in named if name), "")


@final
@dataclass(frozen=True)
class Counts:
    """How often each choice was made, by voters who are not told. They may be shares of a vote, as in 0.7 to 0.3."""

    left: float = 0.0
    right: float = 0.0
    tie: float = 0.0
    both_bad: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no votes can add up to."""
        if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in asdict(self).values()):
            raise ValueError(f"counts are 0 or more, and finite: {self}")

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.left + other.left, self.right + other.right, self.tie + other.tie, self.both_bad + other.both_bad
        )

    @property
    def total(self) -> float:
        """Return the number of votes."""
        return self.left + self.right + self.tie + self.both_bad

    def turned(self) -> "Counts":
        """Return the counts of the same votes with the sides exchanged."""
        return replace(self, left=self.right, right=self.left)


NO_VOTES = Counts()


@final
@dataclass(frozen=True)
class PreferencePair:
    """Two pictures of one prompt, by picture id."""

    pair: str
    prompt: str
    left: str
    right: str
    weight: float = 1.0
    """How much the pair counts in training: 1 / C(k, 2) where a ranking of k pictures made it."""
    criterion: str = ""
    """What those who voted were asked, where that was more particular than which is better."""
    counts: Counts = NO_VOTES
    """Votes that came with the pair and name no voter. Those of named annotators are in the store."""

    def __post_init__(self) -> None:
        """Read the counts of a line of pairs.jsonl, and refuse a weight that is none."""
        if isinstance(self.counts, dict):
            object.__setattr__(self, "counts", Counts(**self.counts))
        if not 0 < self.weight < math.inf:
            raise ValueError(f"pair {self.pair}: its weight is {self.weight}; it must be more than 0, and finite")


@final
@dataclass(frozen=True)
class LabelledPair:
    """A pair with its votes counted. ``preference`` in [0, 1] is the soft target P(left is better)."""

    pair: PreferencePair
    left: float
    right: float
    tie: float
    both_bad: float

    @property
    def preference(self) -> float:
        """Return (left + ½ ties) / all votes, in which both bad counts as a tie."""
        return (self.left + (self.tie + self.both_bad) / 2) / self.total

    @property
    def total(self) -> float:
        """Return the number of votes."""
        return self.left + self.right + self.tie + self.both_bad


@final
class Pairs:
    """A folder of pairs, with the store of the votes on them."""

    def __init__(self, folder: str | Path, store_url: str | None = None) -> None:
        """Open ``folder``; its votes are in its own ``votes.db``, or in the database at ``store_url``."""
        self.folder = Path(folder)
        if not (self.folder / "pairs.jsonl").is_file():
            raise BadInput(f"{folder}: no pairs in it (no pairs.jsonl); make some with 'rlhf-images generate'")
        self.pairs = _read(self.folder / "pairs.jsonl", PreferencePair)
        self.pictures = {picture.id: picture for picture in _read(self.folder / "pictures.jsonl", Picture)}
        if not self.pairs:
            raise BadInput(f"{folder}: its pairs.jsonl is empty; make some pairs with 'rlhf-images generate'")
        self.store = store_of(self.folder, (self.folder / "pairs.jsonl").read_bytes(), store_url)

    @classmethod
    def create(
        cls, folder: str | Path, images: Iterable[tuple[bytes, Picture]], pairs: Iterable[PreferencePair]
    ) -> "Pairs":
        """Write a folder of pairs: encoded ``images`` with their descriptions, then ``pairs``, which are read last."""
        folder = Path(folder)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for data, picture in images:
            write_atomically(folder / "images" / f"{picture.id}.png", data)
            rows.append(asdict(picture))
        write_atomically(folder / "pictures.jsonl", jsonl(rows))
        write_atomically(folder / "pairs.jsonl", lines(pairs))
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

    def labelled(self, annotator: Whose = None) -> list[LabelledPair]:
        """Return every pair with at least one vote that counts (of ``annotator``), in the order of the pairs."""
        counts = {pair.pair: pair.counts if annotator is None else NO_VOTES for pair in self.pairs}
        for vote in self.store.votes(annotator):
            if vote.pair in counts:
                counts[vote.pair] += Counts(**{str(vote.choice): 1})
        return [LabelledPair(pair, **asdict(counts[pair.pair])) for pair in self.pairs if counts[pair.pair].total]

    def unreadable(self, pairs: Iterable[PreferencePair]) -> dict[str, str]:
        """Return the ids of the ``pairs`` with a missing or corrupt picture, each with the reason."""
        sides = [(pair.pair, picture) for pair in pairs for picture in (pair.right, pair.left)]
        reasons: dict[str, str] = {}
        for picture in progress(dict.fromkeys(picture for _, picture in sides), "checking pictures"):
            try:
                self.image(picture)
            except BadInput as error:
                reasons[picture] = str(error)
        return {pair: reasons[picture] for pair, picture in sides if picture in reasons}

    def batches(self, pairs: Sequence[PreferencePair], size: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Yield ``left (B, 3, H, W), right (B, 3, H, W), prompts`` of ``pairs``, at most ``size`` a time."""
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            yield (
                torch.stack([self.image(pair.left) for pair in part]),
                torch.stack([self.image(pair.right) for pair in part]),
                [pair.prompt for pair in part],
            )


def picture_id(data: bytes) -> str:
    """Return the id of a picture with these encoded bytes."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, kind: type[Row]) -> list[Row]:
    try:
        return [kind(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None


def store_of(folder: Path, pairs: bytes, store_url: str | None = None) -> Store:
    """Return the store of the votes on a folder whose pairs.jsonl is ``pairs``: another list, another round."""
    return Store(store_url or sqlite_url(folder / "votes.db"), hashlib.sha256(pairs).hexdigest()[:16])


def lines(pairs: Iterable[PreferencePair]) -> bytes:
    """Return the pairs.jsonl of ``pairs``; the three optional columns only where they are not as usual."""
    usual = asdict(PreferencePair("", "", "", ""))
    optional = ("weight", "criterion", "counts")
    return jsonl(
        {name: value for name, value in asdict(pair).items() if name not in optional or value != usual[name]}
        for pair in pairs
    )


def jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return ``rows`` as lines of JSON."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
