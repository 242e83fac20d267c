"""What may happen to a server in a bad year: killed at any moment, everybody at once. Brief here, long as campaigns."""

import http.client
import random
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from rounds import Client, Killable, made_round, served

from rlhf_images.preferences import Pairs
from rlhf_images.preferences.events import CHOICES


def vote(number: int, pairs: int) -> dict:
    choice = CHOICES[number % len(CHOICES)]
    return {"id": str(uuid.uuid4()), "type": "vote", "pair": f"{number % pairs:06d}", "choice": choice, "ms": number}


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.campaign)])
def test_a_server_killed_at_any_moment_loses_and_doubles_nothing_that_it_acknowledged(tmp_path, kills):
    """kill -9 under 16 clients that post, and post again what was not acknowledged, as the page does."""
    pairs = made_round(tmp_path / "pairs", 8)
    over = threading.Event()
    acknowledged: dict[str, dict[str, dict]] = {f"person {number}": {} for number in range(16)}
    begun: set[str] = set()
    wrong: list[str] = []

    def posts(name: str) -> None:
        client, number = Client(server.port, name), 0
        while not over.is_set() and not wrong:
            events = [vote(number + i, 8) for i in range(1 + number % 3)]
            begun.update(event["id"] for event in events)
            while not over.is_set():
                try:
                    answer = client.post(events)
                except (OSError, http.client.HTTPException):  # killed in the middle: who knows; send the same again
                    time.sleep(0.02)
                    continue
                if answer.status != 200 or answer.json != {"saved": [event["id"] for event in events]}:
                    wrong.append(f"{answer.status} {answer.body!r}")
                    break
                acknowledged[name].update({event["id"]: event for event in events})
                break
            number += len(events)
        client.connection.close()

    chance = random.Random(0)
    with Killable(pairs.folder, annotator=None) as server:
        threads = [threading.Thread(target=posts, args=(name,)) for name in acknowledged]
        for thread in threads:
            thread.start()
        counts = []
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.3))
            server.kill()
            counts.append(sum(map(len, acknowledged.values())))
            server.start()
        time.sleep(1)
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    stored = pairs.store.events()
    ids = [event.id for event in stored]
    assert len(ids) == len(set(ids))
    assert set(ids) <= begun
    for name, events in acknowledged.items():
        found = {event.id: event for event in stored if event.annotator == name}
        assert events.keys() <= found.keys()
        assert all(found[id_].ms == event["ms"] for id_, event in events.items())
    assert counts[-1] > counts[0]  # votes went on between the kills
    total = sum(map(len, acknowledged.values()))
    sys.stdout.write(f"\n{kills} kills -9, 16 clients: {total} events acknowledged, 0 lost, 0 doubled\n")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize(("clients", "each"), [(16, 6), pytest.param(64, 157, marks=pytest.mark.campaign)])
def test_what_many_clients_send_twice_is_stored_once(request, tmp_path, database, clients, each):
    """In the campaign 10,048 events from 64 clients at once, each sent twice."""
    folder = made_round(tmp_path / "pairs", 8).folder
    url = request.getfixturevalue("postgres").url if database == "postgresql" else None
    pairs = Pairs(folder, url)
    pairs.store.round += uuid.uuid4().hex  # a round of its own in the tests' one database
    begin = threading.Barrier(clients)

    def sends(number: int) -> list[float]:
        took = []
        with Client(server.port, f"person {number}") as client:
            begin.wait()
            for i in range(each):
                event = vote(i, 8)
                for _ in range(2):
                    start = time.perf_counter()
                    answer = client.post([event])
                    took.append(time.perf_counter() - start)
                    assert answer.status == 200, answer.body
                    assert answer.json == {"saved": [event["id"]]}
        return took

    with served(pairs, repeats=0, overlap=clients) as server, ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        took = sorted(seconds for part in pool.map(sends, range(clients)) for seconds in part)
        spent = time.perf_counter() - start
    stored = pairs.store.events()
    assert len(stored) == len({event.id for event in stored}) == clients * each
    for number in range(clients):
        assert [event.ms for event in stored if event.annotator == f"person {number}"] == list(range(each))
    pairs.store.close()
    p95 = 1000 * took[int(0.95 * len(took))]
    told = f"{len(took)} posts from {clients} clients in {spent:.0f} s, {len(stored)} stored, p95 {p95:.0f} ms"
    sys.stdout.write(f"\n{database}: {told}\n")
