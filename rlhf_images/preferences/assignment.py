"""Who is shown which pair next, on which side, and what their answer says of the pair.

An annotator's next pairs are, in this order: those in hand; a repeat that is due, a gold pair that is due; fresh ones;
the repeats that are left; and at the end the skipped ones. What is handed out is leased, so that no pair is handed to
more than ``overlap`` people; gold pairs and repeats are for everyone.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, final

from ..errors import BadInput
from .events import AGAIN, Choice, Event, is_script, other_side
from .pairs import Pairs, PreferencePair
from .tally import Leases, Tally
from .writing import Writing

GAP = 12
"""Votes between a pair and its repeat, so that it is not answered from memory."""
GOLD_EVERY = 10
"""Votes from one gold pair to the next."""
LEASE_S = 1800.0


@final
@dataclass(frozen=True)
class Shown:
    """A pair as it stands on the screen: ``left`` and ``right`` are picture ids, ``pair`` may end in ``~again``."""

    pair: str
    prompt: str
    left: str
    right: str


@final
class Assignment:
    """Hands out the pairs of a folder to any number of annotators. May be used from many threads."""

    def __init__(
        self,
        pairs: Pairs,
        *,
        seed: int = 0,
        overlap: int = 1,
        repeats: float = 0.08,
        gold: Mapping[str, Choice] | None = None,
        lease_s: float = LEASE_S,
        order: Sequence[str] | None = None,
    ) -> None:
        """Prepare to hand out each pair of ``pairs`` to ``overlap`` people.

        ``repeats`` is the share of an annotator's pairs that come back swapped, ``gold`` the known answers of some
        pairs, ``order`` the pair ids, the most telling first (default: at random, the same for all).
        """
        if overlap < 1 or not 0 <= repeats <= 1 or lease_s <= 0:
            raise BadInput(f"overlap {overlap}, repeats {repeats}, lease {lease_s} s: 1 or more, 0 to 1, above 0")
        self.pairs, self.gold = pairs, dict(gold or {})
        self._seed, self._overlap, self._repeats, self._lease_s = seed, overlap, repeats, lease_s
        self._pair = {pair.pair: pair for pair in pairs.pairs}
        for pair in (*self.gold, *(order or ())):
            self._known(pair)
        mixed = sorted(self._pair, key=lambda pair: self._share("order", pair))
        names = list(dict.fromkeys([*(order or ()), *mixed]))
        self._order = [pair for pair in names if pair not in self.gold]
        self._gold = [pair for pair in names if pair in self.gold]
        self._place = {pair: place for place, pair in enumerate(self._order)}
        self._tally = Tally()

    def next(self, annotator: str, n: int) -> list[Shown]:
        """Return the next pairs of ``annotator``, at most ``n`` (none when all is done), and lease them.

        Asked again before they are answered, it returns the same ones first.
        """
        _person(annotator)
        with self.pairs.store.writing() as writing:
            leases = self._now(writing)
            chosen = list(islice(self._turn(annotator, leases), max(n, 0)))
            held = leases.of.get(annotator, {})
            firsts = [pair for pair in chosen if not pair.endswith(AGAIN)]
            writing.lease(annotator, [pair for pair in firsts if pair not in held], self._lease_s)
            aged = [pair for pair in firsts if pair in held and held[pair].until - writing.now < self._lease_s / 2]
            writing.extend(annotator, aged, self._lease_s)
        return [self.shown(annotator, pair) for pair in chosen]

    def shown(self, annotator: str, pair: str) -> Shown:
        """Return ``pair`` (an id that may end in ``~again``) as ``annotator`` sees it."""
        of = self._known(pair)
        left, right = (of.right, of.left) if self.swapped(annotator, pair) else (of.left, of.right)
        return Shown(pair, of.prompt, left, right)

    def swapped(self, annotator: str, pair: str) -> bool:
        """Return whether ``annotator`` sees the pair's right picture on the left: a hash, turned for a repeat."""
        return (self._share("side", annotator, pair.removesuffix(AGAIN)) < 0.5) != pair.endswith(AGAIN)

    def progress(self, annotator: str) -> tuple[int, int]:
        """Return how many answers ``annotator`` has given, and how many there will be as things stand."""
        with self.pairs.store.writing() as writing:
            leases = self._now(writing)
            mine = self._tally.of(annotator).votes
            ordinary = [pair for pair in self._order if pair in mine or self._free(pair, annotator, leases)]
            done = sum(pair.removesuffix(AGAIN) in self._pair for pair in mine)
            gold = max(min(len(self._gold), len(ordinary) // GOLD_EVERY), sum(pair in mine for pair in self._gold))
            repeats = sum(self._repeated(annotator, pair) or pair + AGAIN in mine for pair in ordinary)
        return done, max(done, len(ordinary) + gold + repeats)

    def event(self, annotator: str, raw: Mapping[str, Any]) -> Event:
        """Return the event that ``raw`` (parsed JSON) describes: its choice is of the screen, the event's of the pair.

        Raises `BadInput` for a pair that is not of this folder and for anything ill-typed; unknown keys are ignored.
        """
        _person(annotator)
        given = {name: _typed(raw, name, kinds) for name, kinds in _KEYS.items() if raw.get(name) is not None}
        for name in ("id", "type"):
            if name not in given:
                raise BadInput(f"an event needs its '{name}'")
        tags, shown, choice = given.pop("tags", []), given.pop("pair", ""), given.pop("choice", None)
        if not all(isinstance(tag, str) for tag in tags):
            raise BadInput("an event's 'tags' are a list of texts")
        undo = given["type"] == "undo"
        if shown or not undo:
            self._known(shown)
        swapped = bool(shown) and not undo and self.swapped(annotator, shown)
        return Event(
            **given,
            pair=shown.removesuffix(AGAIN),
            annotator=annotator,
            choice=other_side(choice) if swapped else choice,
            swapped=swapped,
            again=shown.endswith(AGAIN) and not undo,
            tags=tuple(tags),
        )

    def record(self, annotator: str, raws: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store the events that ``raws`` describe, all or none, and return their ids; see `event` and `Store.add`."""
        return self.pairs.store.add([self.event(annotator, raw) for raw in raws])

    def _now(self, writing: Writing) -> Leases:
        """Bring the tally up to date and return the leases; only while writing, so that no two threads do it."""
        self._tally.fold(writing.events(self._tally.seen))
        return Leases(writing.leases())

    def _turn(self, annotator: str, leases: Leases) -> Iterator[str]:
        """Yield all that ``annotator`` may be shown now, the next first, each once."""
        record = self._tally.of(annotator)
        mine, skipped, held = record.votes, record.skipped, leases.of.get(annotator, {})

        def open_(pair: str) -> bool:
            return pair not in mine and pair not in skipped and pair.removesuffix(AGAIN) in self._pair

        def free(pair: str) -> bool:
            if pair.endswith(AGAIN):
                return pair.removesuffix(AGAIN) in mine
            return pair in self.gold or self._free(pair, annotator, leases)

        undone = (pair for pair in reversed(record.undone) if open_(pair) and free(pair))
        in_hand = sorted((p for p in held if open_(p) and free(p)), key=lambda pair: self._place.get(pair, 0))
        firsts = [pair for pair in mine if not pair.endswith(AGAIN)]
        left = [p + AGAIN for p in firsts if p in self._pair and self._repeated(annotator, p) and open_(p + AGAIN)]
        due = set(firsts[: max(len(firsts) - GAP, 0)])
        owed = len(firsts) // GOLD_EVERY - sum(pair in mine or pair in held for pair in self._gold)
        gold = islice((pair for pair in self._gold if open_(pair) and pair not in held), max(owed, 0))
        fresh = (pair for pair in self._order if open_(pair) and free(pair))
        at_last = (pair for pair in skipped if pair not in mine and free(pair))
        turn = chain(undone, in_hand, (p for p in left if p.removesuffix(AGAIN) in due), gold, fresh, left, at_last)
        given: set[str] = set()
        for pair in turn:
            if pair not in given:
                given.add(pair)
                yield pair

    def _free(self, pair: str, annotator: str, leases: Leases) -> bool:
        """Return whether ``pair`` may go to ``annotator``, or stay with them: fewer than ``overlap`` came before."""
        voters, holders = self._tally.voters.get(pair), leases.holders.get(pair)
        if not voters and not holders:
            return True
        before = (voters or set()) | (leases.before(pair, annotator) if holders else set())
        return len(before - {annotator}) < self._overlap

    def _repeated(self, annotator: str, pair: str) -> bool:
        """Return whether ``pair`` comes back: every 1/repeats-th one in the round's order, each annotator's own."""
        if pair not in self._place:
            return False
        place = self._place[pair] + self._share("again", annotator) / max(self._repeats, 1e-9)
        return math.floor((place + 1) * self._repeats) > math.floor(place * self._repeats)

    def _known(self, pair: str) -> PreferencePair:
        try:
            return self._pair[pair.removesuffix(AGAIN)]
        except KeyError:
            raise BadInput(f"{self.pairs.folder}: no pair '{pair[:80]}' in it") from None

    def _share(self, *key: str) -> float:
        """Return a number in [0, 1) that is a function of the seed, the round and ``key``."""
        text = "\n".join([str(self._seed), self.pairs.store.round, *key]).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


_KEYS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "type": (str,),
    "pair": (str,),
    "choice": (str,),
    "strength": (int,),
    "ms": (int, float),
    "undoes": (str,),
    "text": (str,),
    "tags": (list,),
}
"""What an event sent by a client may say of itself; the rest the server knows."""


def _person(annotator: str) -> None:
    if is_script(annotator):
        raise BadInput(f"'{annotator}' is a program's name; go by another")


def _typed(raw: Mapping[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    value = raw[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise BadInput(f"an event's '{name}' is {kinds[0].__name__}, not {type(value).__name__}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(f"an event's '{name}' is not a finite number")
        return round(value)
    return value
