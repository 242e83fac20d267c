"""The API: what is promised to the page, and to whoever writes a page of their own."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sql
from chromium import PATIENCE
from rounds import SECRET, Client, made_round, served

from rlhf_images.errors import BadInput
from rlhf_images.labelling import guide
from rlhf_images.labelling.server import bound
from rlhf_images.preferences import Event, Pairs
from rlhf_images.preferences.assignment import Assignment

MIRROR = {"left": "right", "right": "left", "tie": "tie", "both_bad": "both_bad"}


def event(type_: str = "vote", pair: str = "000000", **more) -> dict:
    choice = {"choice": "left"} if type_ == "vote" else {}
    return {"id": str(uuid.uuid4()), "type": type_, "pair": pair} | choice | more


@pytest.fixture
def server(pairs):
    with served(pairs, repeats=0) as found:
        yield found


def preferred(server, client: Client, pair: str) -> str | None:
    """Return the id of the picture that the annotator's vote on ``pair`` prefers."""
    of = {found.pair: found for found in server.pairs.pairs}[pair]
    (vote,) = [v for v in server.pairs.store.votes() if v.pair == pair and v.annotator == client.annotator]
    return {"left": of.left, "right": of.right}.get(str(vote.choice))


def test_an_answer_does_not_wait_for_an_acknowledgement_by_the_network():
    """Nagle's rule holds back the second part of an answer until the first has been acknowledged, 40 ms later."""

    async def spared(listening: socket.socket) -> bool:
        found = asyncio.get_running_loop().create_future()

        def connected(_, writer) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return bool(await found)

    with bound("127.0.0.1", 0) as listening:
        assert asyncio.run(spared(listening))


def test_next_is_as_promised(server):
    client = server.client()
    answer = client.get("/api/next?annotator=ann&n=4")
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json
    assert found.keys() == {"pairs", "done", "total"}
    assert (found["done"], found["total"]) == (0, 12)
    assert len(found["pairs"]) == 4
    known = {pair.pair: pair for pair in server.pairs.pairs}
    for shown in found["pairs"]:
        assert shown.keys() == {"pair", "prompt", "left", "right"}
        pair = known[shown["pair"]]
        assert shown["prompt"] == pair.prompt
        assert {shown["left"], shown["right"]} == {pair.left, pair.right}
    assert client.next(4)["pairs"] == found["pairs"]  # asked again, the same


@pytest.mark.parametrize("n", ["0", "-1", "17", "x", "1.5", "", "1e1", "%D9%A3", "9" * 40])
def test_so_many_pairs_are_not_handed_out(server, n):
    assert server.client().get(f"/api/next?annotator=ann&n={n}").status == 400


@pytest.mark.parametrize("choice", ["left", "right"])
def test_a_choice_of_the_screen_prefers_the_picture_that_was_seen_there(server, choice):
    client = server.client()
    shown = client.next(12)["pairs"]
    assert {pair["left"] == of.left for pair, of in zip(shown, shown, strict=True) for of in server.pairs.pairs} == {
        True,
        False,
    }
    saved = client.post([event(pair=pair["pair"], choice=choice) for pair in shown])
    assert saved.status == 200
    for pair in shown:
        assert preferred(server, client, pair["pair"]) == pair[choice]


def test_a_vote_given_under_another_seed_still_means_what_was_seen(tmp_path):
    pairs = made_round(tmp_path / "pairs", 12)
    with served(pairs, seed=0, repeats=0) as before:
        seen = before.client().next(12)["pairs"]
    with served(pairs, seed=1, repeats=0) as after:
        client = after.client()
        assert {p["pair"]: p["left"] for p in client.next(12)["pairs"]} != {p["pair"]: p["left"] for p in seen}
        client.post([event(pair=pair["pair"], choice="left", left=pair["left"]) for pair in seen])
        for pair in seen:
            assert preferred(after, client, pair["pair"]) == pair["left"]
        rows = client.get("/api/history?annotator=ann").json["events"]
        assert {(row["pair"], row["left"], row["choice"]) for row in rows} == {
            (pair["pair"], pair["left"], "left") for pair in seen
        }


def test_events_are_saved_once_whatever_is_sent_again(server):
    client = server.client()
    events = [event(), event(pair="000001", choice="both_bad"), event("skip", "000002"), event("flag", "000000")]
    ids = [one["id"] for one in events]
    assert client.post(events).json == {"saved": ids}
    assert client.post(events).json == {"saved": ids}
    assert client.post([*events, *events]).json == {"saved": ids}
    assert [stored.id for stored in server.pairs.store.events()] == ids
    assert client.next(1)["done"] == 2


def test_an_id_with_other_content_is_refused_and_nothing_of_that_request_is_stored(server):
    client, first = server.client(), event()
    client.post([first])
    answer = client.post([event(pair="000001"), first | {"choice": "right"}])
    assert answer.status == 422
    assert first["id"] in answer.json["error"]
    assert [stored.id for stored in server.pairs.store.events()] == [first["id"]]


def test_undo_is_ones_own(server):
    ann, bob = server.client("ann"), server.client("bob")
    vote = event()
    ann.post([vote])
    stolen = bob.post([event("undo", undoes=vote["id"])])
    assert stolen.status == 422
    assert len(server.pairs.store.votes()) == 1
    assert ann.post([event("undo", undoes=vote["id"])]).status == 200
    assert server.pairs.store.votes() == []


def test_who_votes_is_the_query_then_the_cookie_then_whom_the_server_was_started_for(server):
    client = server.client()
    kind = {"content_type": "application/json"}
    cookie = client.get("/?annotator=%E7%8C%AB%20k").headers["set-cookie"]
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    known = {"cookie": cookie.split(";")[0]}
    assert client.get("/api/me", **known).json["annotator"] == "猫 k"
    assert client.get("/api/me").json["annotator"] == "ann"
    for target, headers in (("/api/events", {}), ("/api/events", known), ("/api/events?annotator=bob", known)):
        assert client.send("POST", target, json.dumps([event()]).encode(), **kind, **headers).status == 200
    assert [stored.annotator for stored in server.pairs.store.events()] == ["ann", "猫 k", "bob"]


def test_where_nobody_is_named_nobody_votes(pairs):
    with served(pairs, annotator=None) as server:
        client = server.client()
        assert client.get("/api/me").json["annotator"] is None
        for path in ("/api/next", "/api/history", "/api/stats"):
            assert client.get(path).status == 400
        assert client.send("POST", "/api/events", b"[]", content_type="application/json").status == 400


def test_a_page_of_another_round_is_told_so_and_changes_nothing(server):
    client = server.client()
    kind = {"content_type": "application/json"}
    body = json.dumps([event()]).encode()
    assert client.send("POST", "/api/events?annotator=ann&round=other", body, **kind).status == 409
    assert client.get("/api/next?annotator=ann&round=other").status == 409
    assert server.pairs.store.events() == []
    own = server.pairs.store.round
    assert client.send("POST", f"/api/events?annotator=ann&round={own}", body, **kind).status == 200


def test_history_is_what_stands_the_newest_first_as_it_was_on_the_screen(server):
    client = server.client()
    shown = {pair["pair"]: pair for pair in client.next(12)["pairs"]}
    votes = [event(pair=pair, choice="right", ms=400 + 300 * i) for i, pair in enumerate(list(shown)[:4])]
    flag, note = event("flag", votes[0]["pair"]), event("comment", votes[1]["pair"], text="a thumb too many")
    client.post([*votes, flag, note, event("undo", undoes=votes[3]["id"])])
    rows = client.get("/api/history?annotator=ann").json["events"]
    assert [row["id"] for row in rows] == [note["id"], flag["id"], *(vote["id"] for vote in votes[2::-1])]
    assert rows[0]["text"] == "a thumb too many"
    for row, vote in zip(rows[2:], votes[2::-1], strict=True):
        assert (row["left"], row["right"]) == (shown[vote["pair"]]["left"], shown[vote["pair"]]["right"])
        assert (row["choice"], row["ms"]) == ("right", vote["ms"])
    assert [row["fast"] for row in rows[2:]] == [False, False, True]
    assert [row["flagged"] for row in rows[2:]] == [False, False, True]
    first = client.get("/api/history?annotator=ann&n=2").json
    rest = client.get(f"/api/history?annotator=ann&n=9&before={first['events'][-1]['id']}").json
    assert first["events"] + rest["events"] == rows
    assert (first["more"], rest["more"]) == (True, False)
    assert client.get("/api/history?annotator=bob").json["events"] == []


def test_a_vote_that_others_or_oneself_contradict_is_marked(pairs):
    with served(pairs, repeats=1, overlap=2) as server:
        ann, bob = server.client("ann"), server.client("bob")
        shown = ann.next(12)["pairs"]
        ann.post([event(pair=pair["pair"], left=pair["left"]) for pair in shown[:3]])
        bobs = event(pair=shown[0]["pair"], left=shown[0]["right"], choice="left")
        bob.post([bobs, event(pair=shown[1]["pair"], left=shown[1]["right"], choice="right")])
        again = f"{shown[2]['pair']}~again"
        ann.post([event(pair=again, left=shown[2]["right"], choice="right")])  # the same picture: agrees
        rows = ann.get("/api/history?annotator=ann&compare=1").json["events"]
        assert {row["pair"]: row["disagrees"] for row in rows} == {
            shown[0]["pair"]: True,
            shown[1]["pair"]: False,
            shown[2]["pair"]: False,
            again: False,
        }
        ann.post([event(pair=again, left=shown[2]["right"], choice="left")])
        rows = ann.get("/api/history?annotator=ann&compare=1").json["events"]
        assert [row["disagrees"] for row in rows if row["pair"] == shown[2]["pair"]] == [True]
        assert [row["replaced"] for row in rows if row["pair"] == again] == [False, True]


def test_a_repeat_is_stored_as_one_and_with_its_sides_swapped(pairs):
    with served(pairs, repeats=1) as server:
        client = server.client()
        first = {}
        for _ in range(24):
            (shown,) = client.next(1)["pairs"]
            client.post([event(pair=shown["pair"])])
            name = shown["pair"].removesuffix("~again")
            if name != shown["pair"]:
                assert (shown["left"], shown["right"]) == first[name]
            first[name] = (shown["right"], shown["left"])
        assert client.next(1) == {"pairs": [], "done": 24, "total": 24}
        assert len(server.pairs.store.votes()) == 12
        assert server.client().get("/api/stats?annotator=ann").json["annotators"][0]["self_agreement"]["value"] == 0


def test_figures_are_blind_until_the_round_is_over(tmp_path):
    pairs = made_round(tmp_path / "pairs", 4)
    with served(
        pairs, repeats=0, gold={"000000": "left"}, next_step=lambda summary: f"train {summary.votes}"
    ) as server:
        client = server.client()
        found = client.get("/api/stats?annotator=ann").json
        assert (found["votes"], found["over"], found["next"]) == (0, False, None)
        shown = client.next(4)["pairs"]
        client.post([event(pair=pair["pair"]) for pair in shown[:2]])
        found = client.get("/api/stats?annotator=ann").json
        assert found["votes"] == 2
        assert "gold" not in found["annotators"][0]
        while left := client.next(4)["pairs"]:
            client.post([event(pair=pair["pair"]) for pair in left])
        found = client.get("/api/stats?annotator=ann").json
        assert found["over"] is True
        assert found["next"] == f"train {found['votes']}"
        assert "gold" in found["annotators"][0]


def test_whose_pictures_win_is_told_at_the_end_only(tmp_path):
    pairs = made_round(tmp_path / "pairs", 3)
    rows = [json.loads(line) for line in (pairs.folder / "pictures.jsonl").read_text().splitlines()]
    rights = {pair.right for pair in pairs.pairs}
    for row in rows:
        row["settings"] = {"path": f"{SECRET}-{'b' if row['id'] in rights else 'a'}"}
    (pairs.folder / "pictures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with served(Pairs(pairs.folder), repeats=0) as server:
        client = server.client()
        shown = client.next(3)["pairs"]
        client.post([event(pair=pair["pair"]) for pair in shown[:2]])
        before = client.get("/api/stats?annotator=ann")
        assert SECRET.encode() not in before.body
        assert (before.json["comparison"], before.json["ranking"]) == (None, {})
        client.post([event(pair=shown[2]["pair"])])
        assert client.get("/api/stats?annotator=ann").json["comparison"]["after"] == f"{SECRET}-b"


def test_a_store_that_fails_for_a_while_is_no_refusal_of_the_votes(server, monkeypatch, capsys):
    client = server.client()

    def full(_: list[Event]) -> list[str]:
        raise BadInput(f"{server.pairs.folder}/votes.db: cannot be used (disk is full)")

    monkeypatch.setattr(server.pairs.store, "add", full)
    answer = client.post([event()])
    assert answer.status == 503
    assert SECRET not in answer.json["error"]
    assert "disk is full" in capsys.readouterr().out


def test_a_full_disk_drops_no_connection_and_when_there_is_room_again_all_goes_on(pairs, capsys):
    """SQLite itself says so, by a limit on the pages of its file."""
    limit = [2**30]
    with served(pairs, repeats=0, overlap=100) as server:
        sql.event.listen(
            pairs.store._engine, "connect", lambda made, _: made.execute(f"PRAGMA max_page_count = {limit[0]}")
        )
        client = server.client()
        (shown,) = client.next(1)["pairs"]
        limit[0] = 1
        asked = [client.get(f"/api/next?annotator={name}&n=12").status for name in range(30)]
        long = [event("comment", text="x" * 4000) for _ in range(20)]
        assert set(asked) == {200, 503}
        assert client.post(long).status == 503
        assert "full" in capsys.readouterr().out
        limit[0] = 2**30
        assert client.post([event(pair=shown["pair"]), *long]).status == 200
        assert client.get("/api/next?annotator=29&n=12").status == 200
    assert len(pairs.store.events()) == 21


def test_errors_are_one_line_of_json(server):
    client = server.client()
    for path, status in (("/nowhere", 404), ("/api/nowhere", 404), ("/api/next?n=x", 400), ("/api/events", 405)):
        answer = client.get(path)
        assert answer.status == status
        assert answer.json.keys() == {"error"}
        assert answer.json["error"]
        assert "\n" not in answer.json["error"]


def test_the_guidelines_have_a_default_and_are_read_anew(server):
    client = server.client()
    assert guide.read(server.pairs.folder) == guide.DEFAULT
    assert b"How to judge" in client.get("/guide").body
    (server.pairs.folder / "guidelines.md").write_text("# Only *boldness* counts\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    body = client.get("/guide").body
    assert b"<em>boldness</em>" in body
    assert b"<td>2</td>" in body
    (server.pairs.folder / "guidelines.md").write_bytes(b"\xff\xff")
    assert client.get("/guide").status == 503


def test_many_clients_at_once_lose_and_double_nothing(tmp_path):
    """The brief form of the campaign: 16 clients, each event sent twice."""
    pairs = made_round(tmp_path / "pairs", 4)
    failures: list[str] = []

    def sends(number: int) -> None:
        with Client(server.port, f"person {number}") as client:
            for i in range(12):
                one = event(pair=f"{i % 4:06d}", ms=i)
                for _ in range(2):
                    answer = client.post([one])
                    if answer.status != 200 or answer.json != {"saved": [one["id"]]}:
                        failures.append(answer.body.decode())

    with served(pairs, repeats=0, overlap=16) as server:
        threads = [threading.Thread(target=sends, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    stored = pairs.store.events()
    assert len(stored) == len({one.id for one in stored}) == 16 * 12
    for number in range(16):
        assert [one.ms for one in pairs.store.events(f"person {number}")] == list(range(12))


def test_ctrl_c_ends_the_command_with_the_round_in_numbers(tmp_path):
    pairs = made_round(tmp_path / "pairs", 3)
    command = [sys.executable, "-c", "from rlhf_images.cli import main; main()", "label", str(pairs.folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-open", "--annotator", "ann"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", told)[1])
        with Client(port) as client:
            (shown, *_) = client.next(2)["pairs"]
            assert client.post([event(pair=shown["pair"])]).status == 200
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert error == ""
    assert "1 votes on 1 of 3 pairs" in out
    assert "next: rlhf-images train-reward" in out
    assert len(Pairs(pairs.folder).store.votes()) == 1


def test_the_address_of_a_server_for_others_has_the_token(pairs, monkeypatch):
    from rlhf_images.labelling import server

    monkeypatch.setattr(server.uvicorn.Server, "run", lambda *_, **__: None)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        server.serve(Assignment(pairs), host="0.0.0.0", port=0, token="", open_browser=False)
        server.serve(Assignment(pairs), host="::1", port=0, open_browser=False)
        server.serve(Assignment(pairs), host="0.0.0.0", port=0, token="short", open_browser=False)
    lines = [line for line in out.getvalue().splitlines() if "Ctrl-C" not in line]
    assert re.fullmatch(r"label at http://[^/]+:\d+/\?token=[\w-]{32}", lines[0])
    assert re.fullmatch(r"label at http://\[::1\]:\d+/", lines[1])
    assert "can be guessed" in lines[2]
