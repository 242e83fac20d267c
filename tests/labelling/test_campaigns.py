"""What may happen to a server in a bad year: killed at any moment, everybody at once. Brief here, long as campaigns."""

import http.client
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import final

import pytest
from chromium import PATIENCE
from rounds import Client, Killable, made_round, served

from rlhf_images.preferences import Pairs
from rlhf_images.preferences.events import CHOICES


def vote(number: int, pairs: int) -> dict:
    choice = CHOICES[number % len(CHOICES)]
    return {"id": str(uuid.uuid4()), "type": "vote", "pair": f"{number % pairs:06d}", "choice": choice, "ms": number}


@final
class Posters:
    """Clients in threads that post votes, and post again what was not acknowledged, as the page does."""

    def __init__(self, names: Iterable[str], server: Killable) -> None:
        self.server = server
        self.over = threading.Event()
        self.acknowledged: dict[str, dict[str, dict]] = {name: {} for name in names}
        self.begun: set[str] = set()
        self.wrong: list[str] = []
        self.threads = [threading.Thread(target=self.posts, args=(name,)) for name in self.acknowledged]

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def posts(self, name: str) -> None:
        number = 0
        with Client(self.server.port, name) as client:
            while not self.over.is_set() and not self.wrong:
                events = [vote(number + i, 8) for i in range(1 + number % 3)]
                self.begun.update(event["id"] for event in events)
                self.until_acknowledged(client, events)
                number += len(events)

    def until_acknowledged(self, client: Client, events: list[dict]) -> None:
        while not self.over.is_set():
            try:
                answer = client.post(events)
            except (OSError, http.client.HTTPException):  # killed in the middle: who knows; send the same again
                time.sleep(0.02)
                continue
            if answer.status == 200 and answer.json == {"saved": [event["id"] for event in events]}:
                self.acknowledged[client.annotator].update({event["id"]: event for event in events})
            else:
                self.wrong.append(f"{answer.status} {answer.body!r}")
            return

    def more(self) -> None:
        """Wait until another vote was acknowledged."""
        before, end = self.count, time.monotonic() + PATIENCE
        while self.count == before and not self.wrong and time.monotonic() < end:
            time.sleep(0.01)
        assert self.count > before, self.wrong


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.campaign)])
def test_a_server_killed_at_any_moment_loses_and_doubles_nothing_that_it_acknowledged(tmp_path, kills):
    """kill -9 under 16 clients that post."""
    pairs = made_round(tmp_path / "pairs", 8)
    chance = random.Random(0)
    with Killable(pairs.folder, annotator=None) as server:
        posters = Posters([f"person {number}" for number in range(16)], server)
        for thread in posters.threads:
            thread.start()
        try:
            for number in range(kills):
                if number % 2:  # every other time the votes are sure to go on, however busy the machine is
                    posters.more()
                time.sleep(chance.uniform(0.0, 0.3))
                server.kill()
                server.start()
            posters.more()
        finally:
            posters.over.set()
            for thread in posters.threads:
                thread.join()
    assert posters.wrong == []
    stored = pairs.store.events()
    ids = [event.id for event in stored]
    assert len(ids) == len(set(ids))
    assert set(ids) <= posters.begun
    for name, events in posters.acknowledged.items():
        found = {event.id: event for event in stored if event.annotator == name}
        assert events.keys() <= found.keys()
        assert all(found[id_].ms == event["ms"] for id_, event in events.items())
    sys.stdout.write(f"\n{kills} kills -9, 16 clients: {posters.count} events acknowledged, 0 lost, 0 doubled\n")


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
