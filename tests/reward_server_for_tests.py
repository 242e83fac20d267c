"""A scripted reward server that answers rightly, or in one of the ways in which servers go wrong; and the real one."""

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final

from reward_models.serve import application
from rlhf_images.data import decode
from rlhf_images.labelling.security import Door
from rlhf_images.labelling.server import bound, prepared
from rlhf_images.reward import Reward

MODEL = "brightness-of-tests"
WRONG = 77.0
"""A score that no picture has: seen anywhere, somebody was believed."""
TYPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "text": lambda answer: answer["scores"][0].update(mean=str(WRONG)),
    "true": lambda answer: answer["scores"][0].update(mean=True),
    "null": lambda answer: answer["scores"][0].update(mean=None),
    "list": lambda answer: answer["scores"][0].update(mean=[WRONG]),
    "too large": lambda answer: answer["scores"][0].update(mean=10**400),
    "no mean": lambda answer: answer["scores"][0].pop("mean"),
    "valid is 1": lambda answer: answer["scores"][0].update(valid=1, mean=WRONG),
    "no valid": lambda answer: answer["scores"][0].pop("valid"),
    "parts": lambda answer: answer["scores"][0].update(components={"part": "text"}),
    "nan": lambda answer: answer["scores"][0].update(mean=float("nan")),
    "infinite": lambda answer: answer["scores"][0].update(mean=float("inf")),
}
"""Ways to spoil the first row of an answer."""


@final
class RewardServer:
    """Answers questions by ``plan``: the number of the question, from 0 on → a name in `BEHAVIOURS`, or "right"."""

    def __init__(self, plan: Callable[[int], str], seconds: float = 0.0, groupwise: bool = False) -> None:
        self.plan, self.seconds, self.groupwise = plan, seconds, groupwise
        self.asked = 0
        self.elsewhere = 0
        """Requests that followed a redirect."""
        self.over = threading.Event()
        self.counting = threading.Lock()
        self.scoring = threading.Lock()

    def next(self) -> str:
        with self.counting:
            self.asked += 1
            return self.plan(self.asked - 1)

    def right(self, asked: Any) -> dict[str, Any]:
        """The mean of all pixels; ``seconds`` a picture, one question at a time."""
        pngs = [(row["id"], base64.b64decode(row["png"])) for row in asked["pictures"]]
        if self.seconds:
            with self.scoring:
                self.over.wait(self.seconds * len(pngs))
        rows = [{"id": id_, "valid": True, "mean": float(decode(png).mean()), "components": {}} for id_, png in pngs]
        return {"model": asked["model"], "scores": rows}


class Handler(BaseHTTPRequestHandler):
    script: RewardServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        can = {"groupwise": self.script.groupwise, "uncertainty": False}
        self.send(json.dumps({"model": MODEL, "can": can, "reference": [1, 0.5]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/score":
            self.script.elsewhere += 1
        name = self.script.next()
        BEHAVIOURS[name](self, {} if name in IDLE else self.script.right(asked))

    def send(self, text: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"content-length": str(len(text.encode())), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def refuse(self, _: Any) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def hang(self, _: Any) -> None:
        self.script.over.wait(60)

    def slow(self, answer: Any) -> None:
        """Byte after byte, and never done: each comes long before a socket's timeout."""
        self.send_response(200)
        self.end_headers()
        while not self.script.over.wait(0.01):
            self.wfile.write(b" ")

    def huge(self, _: Any) -> None:
        """An answer without end."""
        self.send_response(200)
        self.end_headers()
        while not self.script.over.is_set():
            self.wfile.write(b'{"scores": [' + b"0," * 50_000)

    def spoilt(self, answer: Any, how: str) -> None:
        TYPES[how](answer)
        self.send(json.dumps(answer))

    def foreign(self, answer: Any) -> None:
        """Somebody else's pictures, in the place of ours."""
        for row in answer["scores"]:
            row.update(id="f" + row["id"], mean=WRONG)
        self.send(json.dumps(answer))

    def repeated(self, answer: Any) -> None:
        answer["scores"].append({**answer["scores"][0], "mean": WRONG})
        self.send(json.dumps(answer))

    def redirect(self, answer: Any) -> None:
        if self.path == "/v1/score":
            self.send("", 307, location="/elsewhere")
        else:
            answer["scores"] = [{**row, "mean": WRONG} for row in answer["scores"]]
            self.send(json.dumps(answer))

    def other_model(self, answer: Any) -> None:
        self.send(json.dumps({**answer, "model": "another", "scores": [r | {"mean": WRONG} for r in answer["scores"]]}))


BEHAVIOURS: dict[str, Callable[[Handler, Any], None]] = {
    "right": lambda handler, answer: handler.send(json.dumps(answer)),
    "out of order": lambda handler, answer: handler.send(json.dumps({**answer, "scores": answer["scores"][::-1]})),
    "refuse": Handler.refuse,
    "hang": Handler.hang,
    "slow": Handler.slow,
    "500": lambda handler, answer: handler.send(json.dumps(answer), 500),
    "truncated": lambda handler, answer: handler.send(json.dumps(answer)[:-9]),
    "cut off": lambda handler, answer: handler.send(json.dumps(answer), **{"content-length": "99999"}),
    "too few": lambda handler, answer: handler.send(json.dumps({**answer, "scores": answer["scores"][:-1]})),
    "wrong ids": Handler.foreign,
    "repeated": Handler.repeated,
    "huge": Handler.huge,
    "redirect": Handler.redirect,
    "other model": Handler.other_model,
    "numbers alone": lambda handler, answer: handler.send(json.dumps([row["mean"] for row in answer["scores"]])),
    "not JSON": lambda handler, answer: handler.send("<html>0</html>"),
    "nested": lambda handler, answer: handler.send("[" * 20_000),
    **{f"type: {how}": (lambda handler, answer, how=how: handler.spoilt(answer, how)) for how in TYPES},
}
IDLE = {"refuse", "hang", "slow", "500", "huge"}
"""Those that come before anything is scored."""
SPOILS_ONE = {"too few", *(f"type: {how}" for how in TYPES)}
"""Those in whose answers all pictures but one have a right score."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what is being tested."""


@contextmanager
def reward_server(plan: Callable[[int], str], **options: Any) -> Iterator[tuple[str, RewardServer]]:
    """Serve until the end of the ``with``, and give the address."""
    script = RewardServer(plan, **options)
    with _Server(("127.0.0.1", 0), type("Bound", (Handler,), {"script": script})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", script
        finally:
            script.over.set()
            server.shutdown()
            thread.join(20)


@contextmanager
def served(reward: Reward, token: str | None = None) -> Iterator[str]:
    """Serve ``reward`` as `serve-reward` does until the end of the ``with``, and give the address."""
    listening = bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = prepared(application(reward, Door("127.0.0.1", port, token)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        assert not thread.is_alive()
