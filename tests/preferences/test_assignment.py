"""Whoever asks, whenever, on whichever server: no pair goes to too many, none is lost, and undo is one's own."""

import json
import shutil
import tempfile
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rlhf_images.errors import BadInput
from rlhf_images.preferences import Event, Pairs, Picture, PreferencePair
from rlhf_images.preferences.assignment import GAP, GOLD_EVERY, Assignment
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


def fast_folder() -> Path:
    """Return a new folder in memory where there is such a place: the real database, without the disk's slowness."""
    return Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


@pytest.fixture
def hand():
    """Return a function that makes an assignment over a fresh folder of so many pairs."""
    place = fast_folder()

    def make(count: int, **options) -> Assignment:
        return Assignment(Pairs(folder_of(place / uuid.uuid4().hex, count)), **options)

    yield make
    shutil.rmtree(place)


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


ANY = st.integers(0, 10_000)
"""One of a list, counted round. Every example is a round of a new name, and who is asked what twice hangs on the name:
what is drawn must not hang on how long such a list is, or hypothesis calls the machine flaky."""


class Rounds(RuleBasedStateMachine):
    """Three people and two servers over one database, in any order; ``url`` and ``overlap`` are set by the test."""

    url: str | None = None
    overlap = 1
    count = 8
    events = Bundle("events")

    @initialize()
    def open(self) -> None:
        self.place = fast_folder()
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

    def before(self, pair: str, annotator: str) -> set[str]:
        """Return who else voted on ``pair`` or has it in hand, but for those who were handed it after ``annotator``.

        The last must give it back when a vote that nobody was asked for fills the pair; the first may keep it.
        """
        granted = {lease.annotator: lease.granted for lease in self.leases() if lease.pair == pair}
        voted = {name for (of, name), votes in self.votes.items() if of == pair and votes}
        held = {name for (of, name), until in self.held.items() if of == pair and until > self.now}
        later = {name for name in held if granted.get(name, 0) > granted[annotator]}
        return (voted | (held - later)) - {annotator}

    @rule(
        server=st.integers(0, 1),
        annotator=st.sampled_from(PEOPLE),
        n=st.integers(1, 4),
        which=st.integers(0, 3),
        choice=st.sampled_from(("skip", *CHOICES)),
    )
    def work(self, server, annotator, n, which, choice) -> None:
        shown = self.servers[server].next(annotator, n)
        self.check_handed(annotator, shown, n)
        if not shown:
            return
        one = shown[which % len(shown)]
        if choice == "skip":
            event = {"id": str(uuid.uuid4()), "type": "skip", "pair": one.pair}
            self.send(1 - server, annotator, event)
            self.skipped[annotator] = [pair for pair in self.skipped[annotator] if pair != one.pair] + [one.pair]
            self.held.pop((one.pair, annotator), None)
            self.standing[annotator].append((event["id"], "skip", one.pair))
        else:
            self.vote(1 - server, annotator, one.pair, choice, one.left)

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

    @rule(server=st.integers(0, 1), thief=st.sampled_from(PEOPLE), which=ANY)
    def undo_of_anothers(self, server, thief, which) -> None:
        others = [entry[0] for name in PEOPLE if name != thief for entry in self.standing[name]]
        if others:
            event = {"id": str(uuid.uuid4()), "type": "undo", "undoes": others[which % len(others)]}
            with pytest.raises(BadInput, match="of yours to undo"):
                self.servers[server].record(thief, [event])

    def send(self, server, annotator, event) -> None:
        assert self.servers[server].record(annotator, [event]) == [event["id"]]
        self.done.append((annotator, event["id"], event))

    @rule(server=st.integers(0, 1), which=ANY)
    def resend(self, server, which) -> None:
        """An answer was lost on the way, and the browser sends the event again, maybe to the other server."""
        if self.done:
            annotator, identity, event = self.done[which % len(self.done)]
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
                assert len(self.before(one.pair, annotator)) < self.overlap, one.pair
                self.held[one.pair, annotator] = self.now + LEASE / 2  # the least that is left of a lease in hand
        for place, name in enumerate(names):
            if name in self.skipped[annotator]:
                untouched = {pair for pair in self.pairs if not self.votes.get((pair, annotator))}
                untouched -= {*names[:place], *self.skipped[annotator]}
                taken = {pair for pair in untouched if len(self.leased(pair) - {annotator}) >= self.overlap}
                assert untouched == taken, "a skipped pair came before a fresh one"

    def leased(self, pair) -> set[str]:
        """Return who voted on ``pair`` or has a lease on it, by the store's own book."""
        holders = {lease.annotator for lease in self.leases() if lease.pair == pair}
        return holders | {name for (of, name), votes in self.votes.items() if of == pair and votes}

    def leases(self) -> list:
        with self.servers[0].pairs.store.writing() as writing:
            return writing.leases()

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


def test_everyone_has_sides_of_their_own_reproducibly(hand):
    assignment = hand(400)
    sides = {name: [assignment.swapped(name, pair.pair) for pair in assignment.pairs.pairs] for name in PEOPLE}
    for name in PEOPLE:
        assert 150 < sum(sides[name]) < 250
        again = Assignment(Pairs(assignment.pairs.folder))
        assert [again.swapped(name, pair.pair) for pair in again.pairs.pairs] == sides[name]
    assert 150 < sum(a == b for a, b in zip(sides["ann"], sides["bob"], strict=True)) < 250
    other = Assignment(assignment.pairs, seed=1)
    assert (
        150 < sum(other.swapped("ann", p.pair) == s for p, s in zip(other.pairs.pairs, sides["ann"], strict=True)) < 250
    )


@pytest.mark.parametrize("again", ["", AGAIN])
def test_what_is_chosen_on_the_screen_is_what_is_stored(hand, again):
    assignment = hand(30)
    for pair in assignment.pairs.pairs:
        shown = assignment.shown("ann", pair.pair + again)
        for choice, picture in (("left", shown.left), ("right", shown.right)):
            event = assignment.event("ann", raw(shown, choice, strength=2, ms=1432.4))
            assert {"left": pair.left, "right": pair.right}[event.choice] == picture
            assert (event.pair, event.again, event.strength, event.ms) == (pair.pair, bool(again), 2, 1432)
            assert event.swapped == (shown.left == pair.right)
        for choice in ("tie", "both_bad"):
            assert assignment.event("ann", raw(shown, choice)).choice == choice


def test_what_is_handed_out_stays_in_hand_until_it_is_answered(hand):
    assignment = hand(20)
    first = assignment.next("ann", 4)
    assert assignment.next("ann", 4) == first
    assert assignment.next("ann", 2) == first[:2]
    assignment.record("ann", [raw(first[1])])
    assert assignment.next("ann", 4)[:3] == [first[0], *first[2:]]
    assert assignment.next("ann", 0) == []


def test_two_people_share_a_round_and_do_no_pair_twice(hand):
    assignment = hand(40)
    both = {name: [] for name in ("ann", "bob")}
    for _ in range(45):
        for name, seen in both.items():
            for shown in assignment.next(name, 3)[:1]:
                assignment.record(name, [raw(shown)])
                seen.append(shown.pair)
    firsts = {name: [pair for pair in seen if not pair.endswith(AGAIN)] for name, seen in both.items()}
    assert sorted(firsts["ann"] + firsts["bob"]) == [pair.pair for pair in assignment.pairs.pairs]
    assert len(firsts["ann"]) in range(17, 24)


def test_many_at_once_are_handed_no_pair_twice(hand):
    assignment = hand(120)
    with ThreadPoolExecutor(24) as pool:
        handed = list(pool.map(lambda name: assignment.next(f"person {name}", 5), range(24)))
    names = [shown.pair for batch in handed for shown in batch]
    assert sorted(names) == [pair.pair for pair in assignment.pairs.pairs]
    assert assignment.next("late", 5) == []


def test_a_pair_that_was_left_lying_goes_to_another(hand):
    assignment = hand(3, lease_s=60, repeats=0)
    now = [0.0]
    assignment.pairs.store.clock = lambda: now[0]
    mine = assignment.next("ann", 3)
    assert assignment.next("bob", 3) == []
    now[0] = 40
    assert assignment.next("ann", 3) == mine  # still at work: the lease runs on from here
    now[0] = 80
    assert assignment.next("bob", 3) == []
    now[0] = 101
    assert {shown.pair for shown in assignment.next("bob", 3)} == {shown.pair for shown in mine}
    assert assignment.next("ann", 3) == []
    assignment.record("ann", [raw(mine[0])])  # late, and kept
    assert len(assignment.pairs.labelled()) == 1
    assert mine[0].pair not in {shown.pair for shown in assignment.next("bob", 3)}


def test_a_share_comes_back_swapped_and_not_at_once(hand):
    assignment = hand(100)
    seen = [shown.pair for shown in finish(assignment, "ann", ahead=4)]
    repeats = [pair for pair in seen if pair.endswith(AGAIN)]
    assert len(repeats) == 8
    assert len(seen) == len(set(seen)) == 108
    last = max(place for place, pair in enumerate(seen) if not pair.endswith(AGAIN))
    for pair in repeats:
        between = [p for p in seen[seen.index(pair[: -len(AGAIN)]) + 1 : seen.index(pair)] if not p.endswith(AGAIN)]
        assert len(between) >= GAP or seen.index(pair) > last
        assert assignment.shown("ann", pair).left == assignment.shown("ann", pair[: -len(AGAIN)]).right
    votes = {vote.pair: vote.choice for vote in assignment.pairs.store.votes()}
    again = {event.pair: event.choice for event in assignment.pairs.store.events() if event.again}
    assert len(votes) == 100
    assert all(choice == other_side(votes[pair]) for pair, choice in again.items())  # always the left of the screen
    other = [shown.pair for shown in finish(hand(100, overlap=2), "bob")]
    assert {p for p in other if p.endswith(AGAIN)} != set(repeats)


@pytest.mark.parametrize(("count", "share", "expected"), [(100, 0.0, 0), (50, 0.08, 4), (10, 1.0, 10), (25, 0.2, 5)])
def test_the_share_of_repeats_is_as_asked(hand, count, share, expected):
    assert sum(s.pair.endswith(AGAIN) for s in finish(hand(count, repeats=share), "ann")) == expected


def test_progress_counts_every_answer_to_the_end(hand):
    assignment = hand(60, gold={"003": "left", "004": "right"})
    done, total = assignment.progress("ann")
    assert done == 0
    assert total in (58 + 2 + 4, 58 + 2 + 5)
    for step in range(1, total + 1):
        assignment.record("ann", [raw(assignment.next("ann", 4)[0])])
        assert assignment.progress("ann")[0] == step
    assert assignment.progress("ann") == (total, total)
    assert assignment.next("ann", 4) == []


def test_skipped_pairs_come_back_at_the_end_the_first_skipped_first(hand):
    assignment = hand(12, repeats=0)
    skipped = []
    for place in range(12):
        (shown,) = assignment.next("ann", 1)
        if place % 4 == 1:
            assignment.record("ann", [{"id": str(place), "type": "skip", "pair": shown.pair}])
            skipped.append(shown.pair)
        else:
            assignment.record("ann", [raw(shown)])
    assert [shown.pair for shown in assignment.next("ann", 9)] == skipped
    assignment.record("ann", [{"id": "s", "type": "skip", "pair": skipped[0]}])
    assert [shown.pair for shown in assignment.next("ann", 9)] == [*skipped[1:], skipped[0]]
    assert assignment.progress("ann") == (9, 12)


def test_a_skipped_pair_may_be_taken_by_another(hand):
    assignment = hand(1, repeats=0)
    (shown,) = assignment.next("ann", 1)
    assert assignment.next("bob", 1) == []
    assignment.record("ann", [{"id": "s", "type": "skip", "pair": shown.pair}])
    assert [one.pair for one in assignment.next("bob", 1)] == [shown.pair]
    assert assignment.next("ann", 1) == []


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_undone_comes_back_first_as_far_back_as_one_likes(hand, restart):
    assignment = hand(30, repeats=0)
    voted = []
    for _ in range(20):
        shown = assignment.next("ann", 4)[0]
        assignment.record("ann", [raw(shown)])
        voted.append(shown.pair)
    for step in range(20):
        if restart:
            assignment = Assignment(Pairs(assignment.pairs.folder), repeats=0)
        assignment.record("ann", [{"id": f"u{step}", "type": "undo"}])
        back = [shown.pair for shown in assignment.next("ann", 1 + step)]
        assert back == voted[19 - step :]
        assert assignment.progress("ann") == (19 - step, 30)
    assert assignment.pairs.store.votes() == []
    assert len(assignment.pairs.store.events()) == 40


def test_an_undone_repeat_comes_back_as_the_repeat(hand):
    assignment = hand(30, repeats=1)
    while not (shown := assignment.next("ann", 1)[0]).pair.endswith(AGAIN):
        assignment.record("ann", [raw(shown)])
    votes = assignment.pairs.store.votes()
    assignment.record("ann", [raw(shown)])
    assert assignment.pairs.store.votes() == votes
    assignment.record("ann", [{"id": "u", "type": "undo"}])
    assert assignment.next("ann", 1) == [shown]
    assert assignment.pairs.store.votes() == votes


def test_gold_pairs_are_for_everyone_now_and_then(hand):
    gold = {f"{i:03d}": "left" for i in range(0, 60, 10)}
    assignment = hand(60, gold=gold, repeats=0)
    for name in PEOPLE[:2]:
        shown = [s.pair for s in (assignment.next(name, 1)[0] for _ in range(22)) if vote_on(assignment, name, s)]
        places = [place for place, pair in enumerate(shown) if pair in gold]
        assert places == [GOLD_EVERY, 2 * GOLD_EVERY]
    both = [{v.pair for v in assignment.pairs.store.votes(name)} & gold.keys() for name in PEOPLE[:2]]
    assert both[0] == both[1]


def vote_on(assignment, name, shown) -> bool:
    return bool(assignment.record(name, [raw(shown)]))


def test_a_script_takes_no_pair_away_and_nobody_goes_by_its_name(hand):
    assignment = hand(5, repeats=0)
    votes = [Event(p.pair, "vote", p.pair, "scripted:bold", "left") for p in assignment.pairs.pairs]
    assignment.pairs.store.add(votes)
    assert len(assignment.next("ann", 9)) == 5
    for use in (lambda: assignment.next("scripted:bold", 1), lambda: assignment.event("scripted:x", {})):
        with pytest.raises(BadInput, match="program's name"):
            use()


def test_an_order_is_kept_to(hand):
    assignment = hand(10, repeats=0)
    first = ["007", "002", "005"]
    ordered = Assignment(assignment.pairs, repeats=0, order=first)
    shown = [shown.pair for shown in ordered.next("ann", 10)]
    assert shown[:3] == first
    assert sorted(shown) == [pair.pair for pair in assignment.pairs.pairs]
    mixed = [shown.pair for shown in Assignment(hand(10, repeats=0).pairs, repeats=0).next("ann", 10)]
    assert mixed != sorted(mixed)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pair": "nowhere"}, "no pair 'nowhere'"),
        ({"pair": "x" * 500}, "no pair 'xxx"),
        ({"pair": None}, "no pair ''"),
        ({"choice": "middle"}, "choice 'middle'"),
        ({"choice": None}, "choice 'None'"),
        ({"type": "shout"}, "no type 'shout'"),
        ({"type": None}, "needs its 'type'"),
        ({"id": None}, "needs its 'id'"),
        ({"id": 5}, "'id' is str"),
        ({"strength": "2"}, "'strength' is int"),
        ({"strength": True}, "'strength' is int"),
        ({"ms": float("nan")}, "not a finite number"),
        ({"ms": float("inf")}, "not a finite number"),
        ({"tags": "style"}, "'tags' is list"),
        ({"tags": [1]}, "'tags' are a list of texts"),
        ({"text": ["x"]}, "'text' is str"),
        ({"undoes": "x"}, "only an undo"),
    ],
)
def test_an_event_that_makes_no_sense_is_refused_in_one_line(hand, wrong, said):
    assignment = hand(2)
    event = {"id": "i", "type": "vote", "pair": "000", "choice": "left", **wrong}
    with pytest.raises(BadInput, match=said) as raised:
        assignment.record("ann", [raw(assignment.next("ann", 1)[0]), event])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert assignment.pairs.store.events() == []


@pytest.mark.parametrize("options", [{"overlap": 0}, {"repeats": 1.5}, {"lease_s": 0}, {"gold": {"x": "left"}}])
def test_an_assignment_that_cannot_be_is_refused(hand, options):
    with pytest.raises(BadInput):
        hand(2, **options)
