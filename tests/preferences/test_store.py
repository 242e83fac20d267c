"""The store: what it acknowledged it keeps, once, in order, for SQLite and PostgreSQL alike."""

import random
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sql
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_images.errors import BadInput
from rlhf_images.preferences.database import sqlite_url
from rlhf_images.preferences.events import CHOICES, EVENT_TYPES, Event, other_side, standing
from rlhf_images.preferences.store import Store
from rlhf_images.preferences.writing import Refused

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(params=DATABASES)
def opened(request, tmp_path):
    """Return a function that opens the test's store, each time anew, as another server or the next day would."""
    stores = []
    round = uuid.uuid4().hex
    team = request.param == "postgresql"
    url = request.getfixturevalue("postgres").url if team else sqlite_url(tmp_path / "votes.db")

    def open_(**options) -> Store:
        stores.append(Store(url, options.pop("round", round), **options))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


def vote(pair="p", annotator="ann", choice="left", **more) -> Event:
    return Event(str(uuid.uuid4()), "vote", pair, annotator, choice, **more)


def undo(of: Event | None, annotator="ann", **more) -> Event:
    return Event(str(uuid.uuid4()), "undo", more.pop("pair", ""), annotator, undoes=of and of.id, **more)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@st.composite
def events(draw, annotators=("ann", "bob"), pairs=("p", "q", "r")) -> Event:
    kind = draw(st.sampled_from([name for name in EVENT_TYPES if name != "undo"]))
    choice = draw(st.sampled_from(CHOICES)) if kind == "vote" else None
    return Event(
        id=str(draw(st.uuids())),
        type=kind,
        pair=draw(st.sampled_from(pairs)),
        annotator=draw(st.sampled_from(annotators)),
        choice=choice,
        swapped=draw(st.booleans()),
        again=draw(st.booleans()),
        strength=draw(st.sampled_from([1, 2])) if choice in ("left", "right") else 1,
        ms=draw(st.none() | st.integers(0, 2**31 - 1)),
        text=draw(st.just("") | WORDS),
        tags=tuple(draw(st.lists(WORDS, max_size=3))),
    )


def test_nothing_is_made_before_the_first_write(tmp_path):
    store = Store(sqlite_url(tmp_path / "votes.db"))
    assert store.events() == store.votes() == []
    assert store.voted("ann") == set()
    assert store.add([]) == []
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(events(), min_size=1, max_size=8, unique_by=lambda event: event.id))
def test_what_went_in_comes_out_in_order_whatever_it_says(opened, batch):
    store = opened(round=uuid.uuid4().hex, clock=lambda: 12.5)
    assert store.add(batch) == [event.id for event in batch]
    assert store.events() == [replace(event, at=12.5) for event in batch]
    for annotator in ("ann", "bob", "nobody"):
        assert store.events(annotator) == [event for event in store.events() if event.annotator == annotator]
    store.close()


def test_sent_twice_is_stored_once_and_reopening_finds_it(opened):
    first, second = vote(), vote("q", choice="both_bad")
    store = opened()
    assert store.add([first, first]) == [first.id]
    assert store.add([second, first]) == [second.id, first.id]
    assert [event.id for event in opened().events()] == [first.id, second.id]


def test_rounds_do_not_see_each_other(opened):
    one, two = opened(round="one " + uuid.uuid4().hex), opened(round="two " + uuid.uuid4().hex)
    event = vote()
    one.add([event])
    two.add([replace(event, choice="right")])
    assert one.votes()[0].choice == "left"
    assert two.votes()[0].choice == "right"
    with pytest.raises(Refused):
        opened(round="three " + uuid.uuid4().hex).add([undo(event)])


@pytest.mark.parametrize(
    "other",
    [{"choice": "right"}, {"pair": "q"}, {"annotator": "bob"}, {"swapped": True}, {"again": True}, {"strength": 2}],
)
def test_an_id_with_other_content_is_refused_and_the_first_stays(opened, other):
    store, event, innocent = opened(), vote(), vote("q")
    store.add([event])
    with pytest.raises(Refused, match="other content") as raised:
        store.add([innocent, replace(event, **other)])
    assert list(raised.value.reasons) == [event.id]
    assert [stored.same(event) for stored in store.events()] == [True]
    assert store.add([innocent, event]) == [innocent.id, event.id]


def test_only_what_is_ones_own_and_there_can_be_undone(opened):
    store, mine, theirs = opened(), vote(), vote(annotator="bob")
    store.add([mine, theirs])
    back = undo(mine)
    for wrong in (undo(theirs), undo(vote()), undo(back), replace(undo(mine), annotator="bob")):
        with pytest.raises(Refused, match="to undo"):
            store.add([back, wrong])
    assert {event.annotator for event in store.votes()} == {"ann", "bob"}
    store.add([back, replace(undo(None), undoes=theirs.id, annotator="bob")])
    assert store.votes() == []
    assert len(store.events()) == 4


def test_an_undo_that_names_nothing_takes_back_the_newest_and_may_be_sent_again(opened):
    store = opened()
    sent = [vote("p"), vote("q"), vote("p", choice="right")]
    store.add([*sent, vote("r", annotator="bob")])
    last, on_q = undo(None), undo(None, pair="q")
    assert store.add([last, on_q]) == [last.id, on_q.id]
    assert store.add([on_q, last]) == [on_q.id, last.id]
    assert [(event.pair, event.undoes) for event in store.events() if event.type == "undo"] == [
        ("p", sent[2].id),
        ("q", sent[1].id),
    ]
    assert [(vote.pair, vote.choice) for vote in store.votes("ann")] == [("p", "left")]
    store.add([undo(None)])
    with pytest.raises(Refused, match="nothing left"):
        store.add([undo(None)])
    assert len(store.votes("bob")) == 1


def test_undo_goes_back_through_every_vote_on_a_pair(opened):
    store = opened()
    sent = [vote(choice=choice) for choice in ("left", "tie", "right")]
    store.add(sent)
    for event, before in zip(reversed(sent), ("tie", "left", None), strict=True):
        store.add([undo(event)])
        assert [vote.choice for vote in opened().votes()] == ([before] if before else [])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(events(), max_size=12, unique_by=lambda event: event.id), data=st.data())
def test_votes_are_the_newest_that_stand(opened, batch, data):
    store = opened(round=uuid.uuid4().hex)
    undone = data.draw(st.sets(st.sampled_from([event.id for event in batch]))) if batch else set()
    store.add(batch)
    store.add([undo(event, event.annotator) for event in batch if event.id in undone])
    expected = {}
    for event in batch:
        if event.type == "vote" and not event.again and event.id not in undone:
            expected[event.pair, event.annotator] = event.id
    assert {(vote.pair, vote.annotator): vote.id for vote in store.votes()} == expected
    assert store.voted("ann") == {pair for pair, annotator in expected if annotator == "ann"}
    store.close()


@pytest.mark.parametrize(
    "wrong",
    [
        dict(type="vote"),
        dict(type="vote", choice="middle"),
        dict(type="shout"),
        dict(type="skip", choice="left"),
        dict(type="vote", choice="left", strength=3),
        dict(type="vote", choice="tie", strength=2),
        dict(type="vote", choice="left", ms=-1),
        dict(type="vote", choice="left", ms=2**31),
        dict(type="vote", choice="left", undoes="x"),
        dict(type="vote", choice="left", pair=""),
        dict(type="vote", choice="left", annotator=""),
        dict(type="vote", choice="left", annotator="a" * 201),
        dict(type="vote", choice="left", id=""),
        dict(type="comment", text="x" * 4001),
        dict(type="comment", text="nul \0"),
        dict(type="comment", text="half \ud800"),
        dict(type="flag", tags=("x",) * 17),
        dict(type="flag", tags=("\0",)),
    ],
)
def test_what_nobody_can_have_done_is_no_event(wrong):
    with pytest.raises(BadInput, match=r"event") as raised:
        Event(**{"id": "i", "pair": "p", "annotator": "ann", **wrong})
    assert "\n" not in str(raised.value)


@given(st.sampled_from(CHOICES))
def test_swapping_sides_twice_changes_nothing(choice):
    assert other_side(other_side(choice)) == choice
    assert (other_side(choice) == choice) == (choice in ("tie", "both_bad"))


def many(store: Store, clients: int, each: int, send: int = 2) -> list[list[str]]:
    """Let ``clients`` threads add ``each`` events ``send`` times, in batches of 1 to 5; return what each was told."""

    def client(number: int) -> list[str]:
        mixed = random.Random(number)
        todo = [Event(f"{number}-{i}", "vote", f"p{i}", f"a{number}", "left") for i in range(each)] * send
        mixed.shuffle(todo)
        told = []
        while todo:
            size = mixed.randint(1, 5)
            told += store.add(todo[:size])
            del todo[:size]
        return told

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(client, range(clients)))


def test_many_clients_at_once_each_sending_twice(opened):
    store = opened()
    told = many(store, clients=16, each=10)
    stored = [event.id for event in opened().events()]
    assert len(stored) == len(set(stored)) == 160
    assert {name for names in told for name in names} == set(stored)


CLIENTS = """
import os, random, sys, time
from rlhf_images.preferences import Event, Store
url, round, clients, each = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
children = []
for client in range(clients):
    child = os.fork()
    if child == 0:
        try:
            mixed = random.Random(client)
            own = [(client, i) for i in range(each)] + [((client + 1) % clients, i) for i in range(each)]
            mixed.shuffle(own)
            store = Store(url, round)
            for owner, i in own:
                store.add([Event(f"{owner}-{i}", "vote", f"p{i}", f"a{owner}", "left")])
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.parametrize(("clients", "each"), [(6, 8), pytest.param(64, 157, marks=pytest.mark.campaign)])
def test_many_processes_at_once_every_event_sent_by_two(opened, clients, each):
    store = opened()
    command = [sys.executable, "-c", CLIENTS, store.url.render_as_string(hide_password=False), store.round]
    begun = time.monotonic()
    done = subprocess.run([*command, str(clients), str(each)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stored = [event.id for event in store.events()]
    assert len(stored) == len(set(stored)) == clients * each
    print(f"{store.name}: {clients} processes, {2 * len(stored)} sent, {time.monotonic() - begun:.1f} s")  # noqa: T201


KILLED = """
import os, random, select, signal, sys, time
from rlhf_images.preferences import Event, Store
url, round, kills, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), 4
pause = random.Random(0)
heard, tell = os.pipe()
for life in range(kills):
    child = os.fork()
    if child == 0:
        import threading
        threading.excepthook = lambda error: (print(error.exc_value, file=sys.stderr, flush=True), os._exit(1))
        store = Store(url, round)
        def post(thread):
            for batch in range(10**9):
                names = [f"{life}-{thread}-{batch}-{i}" for i in range(3)]
                store.add([Event(name, "vote", name, "ann", "left") for name in names])
                os.write(1, (" ".join(names) + "\\n").encode())
                os.write(tell, b"x")
        for thread in range(threads):
            threading.Thread(target=post, args=(thread,)).start()
        time.sleep(1000)
    for _ in range(8):
        if not select.select([heard], [], [], 100)[0]:
            sys.exit("no vote was acknowledged for 100 s")
        os.read(heard, 1)
    time.sleep(pause.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        sys.exit("a poster ended by itself")
    os.set_blocking(heard, False)
    try:
        os.read(heard, 1 << 20)
    except BlockingIOError:
        pass
    os.set_blocking(heard, True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.campaign)])
def test_a_kill_loses_nothing_acknowledged_and_leaves_no_half_batch(opened, kills):
    store = opened()
    command = [sys.executable, "-c", KILLED, store.url.render_as_string(hide_password=False), store.round, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged = done.stdout.split()
    stored = [event.id for event in store.events()]
    assert len(acknowledged) >= 3 * kills
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    batches = [name.rpartition("-")[0] for name in stored]
    assert all(batches.count(batch) == 3 for batch in set(batches[-300:]))
    assert len(stored) % 3 == 0
    print(f"{store.name}: {kills} kills, {len(acknowledged)} acknowledged, {len(stored)} stored")  # noqa: T201


def test_a_crash_of_the_database_itself_loses_nothing_acknowledged(postgres):
    store = Store(postgres.url, uuid.uuid4().hex)
    told = [store.add([vote(f"p{i}")])[0] for i in range(40)]
    postgres.stop("immediate")
    with pytest.raises(BadInput, match="cannot be used"):
        store.add([vote("lost")])
    postgres.start()
    assert [event.id for event in store.events()] == told
    store.add([vote("after")])
    store.close()


def test_many_rounds_may_begin_a_database_at_once(postgres):
    administrator = sql.create_engine(Store(postgres.url).url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(sql.text("CREATE DATABASE fresh"))
    administrator.dispose()
    stores = [Store(postgres.url.replace("/postgres?", "/fresh?"), f"round {i}") for i in range(12)]
    with ThreadPoolExecutor(len(stores)) as pool:
        assert [len(ids) for ids in pool.map(lambda store: store.add([vote()]), stores)] == [1] * len(stores)
    assert [len(store.events()) for store in stores] == [1] * len(stores)
    for store in stores:
        store.close()


def test_a_vote_is_on_disk_before_it_is_acknowledged(tmp_path, postgres):
    file = Store(sqlite_url(tmp_path / "votes.db"))
    team = Store(postgres.url, "durable")
    with file.writing() as writing:
        assert writing._connection.execute(sql.text("PRAGMA synchronous")).scalar() == 3
        assert writing._connection.execute(sql.text("PRAGMA journal_mode")).scalar() == "delete"
    with team.writing() as writing:
        assert writing._connection.execute(sql.text("SHOW synchronous_commit")).scalar() == "on"
    with team._engine.connect() as connection:  # what the server would do if it were not asked
        assert connection.execute(sql.text("SHOW synchronous_commit")).scalar() == "off"
    team.close()


def test_a_writer_that_fails_leaves_nothing_and_lets_the_next_one_in(opened):
    store = opened()

    def fails() -> None:
        with store.writing() as writing:
            writing.add([vote()])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert store.events() == []
    store.add([vote()])
    assert len(store.events()) == 1


def test_readers_see_whole_batches_while_others_write(opened):
    store, other = opened(), opened()
    store.add([vote("warm")])
    end = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not end.is_set():
            seen.append(len(other.events()))

    reader = threading.Thread(target=read)
    reader.start()
    for batch in range(20):
        store.add([vote(f"{batch} {i}") for i in range(5)])
    end.set()
    reader.join()
    assert seen == sorted(seen)
    assert all(count % 5 == 1 for count in seen)


@pytest.mark.parametrize(
    "url",
    ["votes.db", "mysql://host/db", "sqlite://", "postgresql://user:s3cret@host", "", "http://example.com/x"],
)
def test_a_url_that_is_no_store_is_refused_without_its_password(url):
    with pytest.raises(BadInput, match=r"--store .*give sqlite:///votes.db or postgresql://") as raised:
        Store(url)
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_that_does_not_answer_is_one_line_without_the_password():
    pytest.importorskip("psycopg")
    store = Store("postgresql://ann:s3cret@127.0.0.1:1/votes")
    for use in (lambda: store.add([vote()]), store.events):
        with pytest.raises(BadInput, match="cannot be used") as raised:
            use()
        assert "s3cret" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "votes.db"
    path.write_bytes(b"this is no database" * 99)
    store = Store(sqlite_url(path))
    for use in (store.events, store.votes, lambda: store.voted("ann"), lambda: store.add([vote()])):
        with pytest.raises(BadInput, match=r"votes\.db: cannot be used"):
            use()
    assert path.read_bytes() == b"this is no database" * 99


def test_tables_of_another_version_are_refused(tmp_path):
    path = tmp_path / "votes.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE events (number INTEGER PRIMARY KEY, id TEXT, choice TEXT)")
    database.close()
    before = path.read_bytes()
    store = Store(sqlite_url(path))
    for use in (store.events, lambda: store.add([vote()])):
        with pytest.raises(BadInput, match="another version") as raised:
            use()
        assert "\n" not in str(raised.value)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_told_before_the_first_vote(tmp_path):
    """SQLite opens it all the same, and begins to write by reading only."""
    Store(sqlite_url(tmp_path / "votes.db")).add([vote()])
    store = Store(f"sqlite:///file:{tmp_path / 'votes.db'}?mode=ro&uri=true")
    with pytest.raises(BadInput, match="readonly"), store.writing() as writing:
        writing.can_be_written()
    assert Store(sqlite_url(tmp_path / "votes.db")).events()


def test_a_full_disk_is_told_as_such(tmp_path):
    path = tmp_path / "votes.db"
    store = Store(sqlite_url(path))
    store.add([vote()])
    pages = path.stat().st_size // 4096
    sql.event.listen(
        store._engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count = {pages}")
    )
    with pytest.raises(OSError, match="full"):
        store.add([vote(f"p{i}", text="x" * 4000) for i in range(100)])
    assert len(store.events()) == 1


@pytest.mark.parametrize("name", ["a b#c?.db", "ü%20.db", "file:x.db"])
def test_any_path_will_do(tmp_path, name):
    store = Store(sqlite_url(tmp_path / name))
    store.add([vote()])
    assert (tmp_path / name).is_file()
    assert len(Store(sqlite_url(tmp_path / name)).events()) == 1


def test_standing_leaves_undos_and_undone_out():
    one, two = vote(), vote("q")
    assert standing([one, two, undo(one)]) == [two]
    assert standing([]) == []


def test_a_removed_file_is_begun_anew(tmp_path):
    path = tmp_path / "votes.db"
    store = Store(sqlite_url(path))
    store.add([vote()])
    path.unlink()
    assert store.events() == []
    store.add([vote()])
    assert len(store.events()) == 1
