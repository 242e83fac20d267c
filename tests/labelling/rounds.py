"""Rounds to label, servers of them that can be stopped and killed, and clients that send any bytes one likes."""

import hashlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

import numpy as np
from chromium import PATIENCE
from forked import context
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rlhf_images.labelling.app import application
from rlhf_images.labelling.security import Door
from rlhf_images.labelling.server import bound, prepared, serve
from rlhf_images.preferences import Pairs, Picture, PreferencePair
from rlhf_images.preferences.assignment import Assignment

SECRET = "secret-model-xl"
"""Whose pictures these are: in the metadata of each file, in its settings, and in the folder's name."""
PROMPTS = ("a red fox in the snow", "three apples on a table", "猫 on a roof at night, 85 mm", "a tiny bakery")


def encoded(seed: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """Return a picture of two colours with metadata that gives its maker away."""
    random = np.random.default_rng(seed)
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    pixels[:], pixels[: size[1] // 2] = random.integers(0, 255, 3), random.integers(0, 255, 3)
    told = PngInfo()
    told.add_text("parameters", f"{SECRET}, steps 30")
    told.add_itxt("prompt", SECRET, zip=True)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=told, compress_level=1)
    return file.getvalue()


def made_round(
    folder: Path, count: int = 12, *, prompts: tuple[str, ...] = PROMPTS, size: tuple[int, int] = (24, 16)
) -> Pairs:
    """Write a folder of ``count`` pairs."""
    images = [encoded(i, size) for i in range(2 * count)]
    ids = [hashlib.sha256(data).hexdigest() for data in images]
    text = [prompts[i // 2 % len(prompts)] for i in range(2 * count)]
    pictures = [Picture(id_, text[i], 0, i, {"path": SECRET}) for i, id_ in enumerate(ids)]
    pairs = [PreferencePair(f"{i:06d}", text[2 * i], ids[2 * i], ids[2 * i + 1]) for i in range(count)]
    return Pairs.create(folder, zip(images, pictures, strict=True), pairs)


@final
class Tap:
    """ASGI: keep all bytes that an application sends, and hold back what is asked for, until it is let go."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.sent: list[tuple[str, bytes]] = []
        self.held: dict[str, threading.Event] = {}
        """Beginning of a path → when it may be answered."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        import anyio

        for start, free in self.held.items():
            while scope["path"].startswith(start) and not free.is_set():
                await anyio.sleep(0.005)

        async def kept(message: Any) -> None:
            headers = b"\n".join(name + b": " + value for name, value in message.get("headers", []))
            self.sent.append((scope["path"], headers + message.get("body", b"")))
            await send(message)

        await self.app(scope, receive, kept)


@final
@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@final
class Client:
    """One keep-alive connection that changes nothing of what it is told to send."""

    def __init__(self, port: int, annotator: str = "ann") -> None:
        self.port = port
        self.annotator = annotator
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request; header names take ``_`` for ``-``, and an empty ``host`` is left out."""
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        try:
            self.connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in ({"host": f"127.0.0.1:{self.port}"} | given).items():
                if value or name != "host":
                    self.connection.putheader(name, value.encode())
            if body is not None and "content-length" not in given and "transfer-encoding" not in given:
                self.connection.putheader("content-length", str(len(body)))
            self.connection.endheaders(body)
            answer = self.connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()  # the next request opens a new one
            raise

    def get(self, target: str, **headers: str) -> Answer:
        return self.send("GET", target, **headers)

    def post(self, events: Any, **headers: str) -> Answer:
        target = f"/api/events?annotator={quote(self.annotator)}"
        return self.send("POST", target, json.dumps(events).encode(), **{"content_type": "application/json"} | headers)

    def next(self, n: int = 4) -> Any:
        answer = self.get(f"/api/next?annotator={quote(self.annotator)}&n={n}")
        assert answer.status == 200, answer.body
        return answer.json


@dataclass
class Served:
    """A server in a thread of this process."""

    pairs: Pairs
    port: int
    tap: Tap
    clients: list[Client] = field(default_factory=list)
    seen: int = 0
    """Events that were there before the test."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, annotator: str = "ann") -> Client:
        self.clients.append(Client(self.port, annotator))
        return self.clients[-1]


@contextmanager
def served(
    pairs: Pairs,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    token: str | None = None,
    annotator: str | None = "ann",
    next_step: Any = None,
    **options: Any,
) -> Iterator[Served]:
    """Serve ``pairs`` until the end of the ``with``; ``host`` is what the server believes to be bound to."""
    listening = bound("127.0.0.1", port)
    door = Door(host, listening.getsockname()[1], token)
    tap = Tap(application(Assignment(pairs, **options), door, annotator, next_step))
    server = prepared(tap)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    found = Served(pairs, door.port, tap)
    try:
        yield found
    finally:
        for client in found.clients:
            client.connection.close()
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port that servers of a test may be bound to, one after the other, and that nobody else is given.

    A socket that is bound and does not listen keeps it; only between the death of a server and the next one's start,
    with tests and browsers beside it that are given free ports by the hundred, would it otherwise be anybody's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield int(keeper.getsockname()[1])


def _process(folder: str, port: int, annotator: str | None, url: str | None) -> None:
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    serve(Assignment(Pairs(folder, url), repeats=0), annotator=annotator, port=port, open_browser=False)


@final
class Killable:
    """A server in a process of its own, on a port that stays, which may be killed at any time and started again."""

    def __init__(self, folder: Path, *, annotator: str | None = "ann", url: str | None = None) -> None:
        self._keeping = ExitStack()
        self.port = self._keeping.enter_context(reserved_port())
        self.arguments = (str(folder), self.port, annotator, url)

    def __enter__(self) -> "Killable":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._keeping.close()

    def start(self) -> None:
        self.process = context.Process(target=_process, args=self.arguments, daemon=True)
        self.process.start()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.is_alive():
            try:
                with Client(self.port) as client:
                    client.get("/api/me")
                return
            except (OSError, http.client.HTTPException):
                time.sleep(0.005)
        raise TimeoutError("the server did not start")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"
