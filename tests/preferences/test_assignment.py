"""Whoever asks, whenever, on whichever server: no pair goes to too many, none is lost, and undo is one's own."""

import json
import shutil
import tempfile
import uuid
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rlhf_images.errors import BadInput
from rlhf_images.preferences import Pairs, Picture, PreferencePair
from rlhf_images.preferences.assignment import Assignment
from rlhf_images.preferences.events import AGAIN, CHOICES, other_side

PEOPLE = ("ann", "bob", "cem")
LEASE = 100.0


def folder_of(path: Path, count: int) -> Path:
    """Write a folder of ``count`` pairs whose pictures nobody looks at."""
    path.mkdir(exist_ok=True)
    pairs = [PreferencePair(f"{i:03d}", f"prompt {i % 7}", f"l{i}", f"r{i}") for i in range(count)]
    pictures = [Picture(name, pair.prompt, 0, 0, {}) for pair in pairs for name in (pair.left, pair.right)]
    for name, rows in (("pairs.jsonl", pairs), ("pictures.jsonl", pictures)):
        (path / name).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def hand(tmp_path):
    """Return a function that makes an assignment over a fresh folder of so many pairs."""

    def make(count: int, **options) -> Assignment:
        return Assignment(Pairs(folder_of(tmp_path / uuid.uuid4().hex, count)), **options)

    return make


def raw(shown, choice="left", **more) -> dict:
    return {"id": str(uuid.uuid4()), "type": "vote", "pair": shown.pair, "choice": choice, **more}


def finish(assignment: Assignment, annotator: str, ahead: int = 1, most: int = 10_000) -> list:
    """Let ``annotator`` vote until nothing is left; return what was shown, in order."""
    seen = []
    for _ in range(most):
        shown = assignment.next(annotator, ahead)
        if not shown:
            return seen
        seen.append(shown[0])
        assignment.record(annotator, [raw(shown[0])])
    raise AssertionError("it never ends")


class Rounds(RuleBasedStateMachine):
    """Three people and two servers over one database, in any order; ``url`` and ``overlap`` are set by the test."""

    url: str | None = None
    overlap = 1
    count = 8
    events = Bundle("events")

    @initialize()
    def open(self) -> None:
        fast = Path("/dev/shm")  # the real database, without the disk's slowness
        self.place = Path(tempfile.mkdtemp(dir=fast if fast.is_dir() else None))
        folder = folder_of(self.place / "pairs", self.count)
        with (folder / "pairs.jsonl").open("a") as file:  # a round of its own in a shared database
            file.write(json.dumps(asdict(PreferencePair(uuid.uuid4().hex, "x", "l", "r"))) + "\n")
        with (folder / "pictures.jsonl").open("a") as file:
            file.write("".join(json.dumps(asdict(Picture(name, "x", 0, 0, {}))) + "\n" for name in "lr"))
        self.folder, self.now = folder, 1000.0
        self.servers = [self.server(), self.server()]
        self.pairs = {pair.pair: pair for pair in self.servers[0].pairs.pairs}
        self.votes: dict[tuple[str, str], list[tuple[str, str]]] = {}  # (pair as shown, person) → standing (id, choice)
        self.skipped: dict[str, list[str]] = {name: [] for name in PEOPLE}
        self.held: dict[tuple[str, str], float] = {}  # (pair, person) → until when it is in hand
        self.done: list[tuple[str, str, dict]] = []
        self.standing: dict[str, list[tuple[str, str, str]]] = {name: [] for name in PEOPLE}  # id, type, pair as shown

    def server(self) -> Assignment:
        pairs = Pairs(self.folder, self.url)
        pairs.store.clock = lambda: self.now
        return Assignment(pairs, overlap=self.overlap, repeats=0.3, lease_s=LEASE)

    def people(self, pair: str) -> set[str]:
        voted = {name for (of, name), votes in self.votes.items() if of == pair and votes}
        return voted | {name for (of, name), until in self.held.items() if of == pair and until > self.now}

    @rule(server=st.integers(0, 1), annotator=st.sampled_from(PEOPLE), n=st.integers(1, 4), act=st.data())
    def work(self, server, annotator, n, act) -> None:
        shown = self.servers[server].next(annotator, n)
        self.check_handed(annotator, shown, n)
        if not shown:
            return
        one = act.draw(st.sampled_from(shown))
        if act.draw(st.integers(0, 4)) == 0:
            event = {"id": str(uuid.uuid4()), "type": "skip", "pair": one.pair}
            self.send(1 - server, annotator, event)
            self.skipped[annotator] = [pair for pair in self.skipped[annotator] if pair != one.pair] + [one.pair]
            self.held.pop((one.pair, annotator), None)
            self.standing[annotator].append((event["id"], "skip", one.pair))
        else:
            self.vote(1 - server, annotator, one.pair, act.draw(st.sampled_from(CHOICES)), one.left)

    @rule(server=st.integers(0, 1), annotator=st.sampled_from(PEOPLE), pair=st.integers(0, 8), again=st.booleans())
    def vote_unasked(self, server, annotator, pair, again) -> None:
        """A browser that was offline sends a vote on what it had in hand long ago, or an old vote changed its mind."""
        name = sorted(self.pairs)[pair] + AGAIN * again
        self.vote(server, annotator, name, "left", self.servers[server].shown(annotator, name).left)

    def vote(self, server, annotator, pair, choice, left) -> None:
        event = {"id": str(uuid.uuid4()), "type": "vote", "pair": pair, "choice": choice}
        self.send(server, annotator, event)
        of = self.pairs[pair.removesuffix(AGAIN)]
        meant = choice if left == of.left else other_side(choice)
        self.votes.setdefault((pair, annotator), []).append((event["id"], meant))
        self.held.pop((pair, annotator), None)
        self.skipped[annotator] = [name for name in self.skipped[annotator] if name != pair]
        self.standing[annotator].append((event["id"], "vote", pair))

    @rule(server=st.integers(0, 1), annotator=st.sampled_from(PEOPLE), back=st.integers(0, 3), named=st.booleans())
    def undo(self, server, annotator, back, named) -> None:
        mine = self.standing[annotator]
        event = {"id": str(uuid.uuid4()), "type": "undo"}
        if not mine:
            with pytest.raises(BadInput, match="nothing left"):
                self.servers[server].record(annotator, [event])
            return
        target = mine[-1 - back % len(mine)] if named else mine[-1]
        if named:
            event["undoes"] = target[0]
        self.send(server, annotator, event)
        mine.remove(target)
        identity, kind, pair = target
        if kind == "vote":
            self.votes[pair, annotator] = [vote for vote in self.votes[pair, annotator] if vote[0] != identity]
        elif not any(kind == "skip" and of == pair for _, kind, of in mine):
            self.skipped[annotator] = [name for name in self.skipped[annotator] if name != pair]

    @rule(server=st.integers(0, 1), thief=st.sampled_from(PEOPLE), data=st.data())
    def undo_of_anothers(self, server, thief, data) -> None:
        others = [entry[0] for name in PEOPLE if name != thief for entry in self.standing[name]]
        if others:
            event = {"id": str(uuid.uuid4()), "type": "undo", "undoes": data.draw(st.sampled_from(others))}
            with pytest.raises(BadInput, match="of yours to undo"):
                self.servers[server].record(thief, [event])

    def send(self, server, annotator, event) -> None:
        assert self.servers[server].record(annotator, [event]) == [event["id"]]
        self.done.append((annotator, event["id"], event))

    @rule(server=st.integers(0, 1), data=st.data())
    def resend(self, server, data) -> None:
        """An answer was lost on the way, and the browser sends the event again, maybe to the other server."""
        if self.done:
            annotator, identity, event = data.draw(st.sampled_from(self.done))
            assert self.servers[server].record(annotator, [event]) == [identity]

    @rule(server=st.integers(0, 1))
    def restart(self, server) -> None:
        self.servers[server].pairs.store.close()
        self.servers[server] = self.server()

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE + 1]))
    def wait(self, seconds) -> None:
        self.now += seconds

    def check_handed(self, annotator, shown, n) -> None:
        names = [one.pair for one in shown]
        assert len(names) == len(set(names)) <= n
        for one in shown:
            of = self.pairs[one.pair.removesuffix(AGAIN)]
            assert not self.votes.get((one.pair, annotator))
            assert {one.left, one.right} == {of.left, of.right}
            if one.pair.endswith(AGAIN):
                assert self.votes[of.pair, annotator]
                assert one.left != self.servers[0].shown(annotator, of.pair).left
            else:
                assert len(self.people(one.pair) - {annotator}) < self.overlap, one.pair
                self.held[one.pair, annotator] = self.now + LEASE / 2  # the least that is left of a lease in hand
        for place, name in enumerate(names):
            if name in self.skipped[annotator]:
                untouched = {pair for pair in self.pairs if not self.votes.get((pair, annotator))}
                untouched -= {*names[:place], *self.skipped[annotator]}
                taken = {pair for pair in untouched if len(self.leased(pair) - {annotator}) >= self.overlap}
                assert untouched == taken, "a skipped pair came before a fresh one"

    def leased(self, pair) -> set[str]:
        """Return who voted on ``pair`` or has a lease on it, by the store's own book."""
        with self.servers[0].pairs.store.writing() as writing:
            holders = {lease.annotator for lease in writing.leases() if lease.pair == pair}
        return holders | {name for (of, name), votes in self.votes.items() if of == pair and votes}

    @invariant()
    def votes_are_as_given(self) -> None:
        if not hasattr(self, "servers"):
            return
        found = {(vote.pair, vote.annotator): (vote.id, vote.choice) for vote in self.servers[1].pairs.store.votes()}
        expected = {key: votes[-1] for key, votes in self.votes.items() if votes and not key[0].endswith(AGAIN)}
        assert found == expected
        events = self.servers[0].pairs.store.events()
        assert [event.id for event in events] == [identity for _, identity, _ in self.done]

    def teardown(self) -> None:
        if not hasattr(self, "servers"):
            return
        try:
            for name in PEOPLE:
                self.now += 2 * LEASE
                shown = finish(self.servers[0], name)
                assert len({one.pair for one in shown}) == len(shown)
                done, total = self.servers[1].progress(name)
                assert done == total
            voters = Counter(vote.pair for vote in self.servers[0].pairs.store.votes())
            assert set(voters) == set(self.pairs)
            assert min(voters.values()) >= self.overlap
        finally:
            for server in self.servers:
                server.pairs.store.close()
            shutil.rmtree(self.place, ignore_errors=True)


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("examples", [12, pytest.param(400, marks=pytest.mark.campaign)])
def test_any_schedule_of_people_and_servers(request, database, overlap, examples):
    url = request.getfixturevalue("postgres").url if database == "postgresql" else None
    machine = type("Rounds", (Rounds,), {"url": url, "overlap": overlap})
    if database == "postgresql":
        examples //= 4  # its commits take longer
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))
