"""Asking a service over HTTP: JSON there and back, within a deadline and a size, and nothing taken on trust.

No redirect is followed, no proxy is used, nothing is unpacked, and what is not plain JSON is no answer.
"""

import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar, final
from urllib.parse import parse_qsl, urlsplit

from rlhf_images.errors import BadInput
from rlhf_images.labelling.security import is_loopback

T = TypeVar("T")
LONGEST_PAUSE = 30.0
"""Seconds between two attempts, at most."""
PASSING = (408, 425, 429)
"""Refusals that may be over soon, beside all of 500 and more."""


@final
class NoAnswer(Exception):
    """What came back is no answer. ``passing``: asked once more, the service may well give one."""

    def __init__(self, reason: str, passing: bool = True) -> None:
        super().__init__(printable(reason))
        self.passing = passing


@final
@dataclass(frozen=True)
class Service:
    """Where to ask, how long to wait, and how often to try again."""

    secure: bool
    host: str
    port: int
    path: str
    """Before the path of each question, without a slash at its end."""
    token: str | None = field(default=None, repr=False)
    """Shown with every question; from the environment only, never from a config, which is written to disk."""
    timeout: float = 60.0
    """Seconds for one attempt, from the connection to the last byte."""
    attempts: int = 4
    """How often a question is asked at most."""
    pause: float = 0.25
    """Seconds before the second attempt, about; doubled before each further one."""

    @classmethod
    def at(cls, url: str, variable: str) -> "Service":
        """Return the service at ``http://host:port/path?timeout=60&attempts=4``, its token from ``variable``.

        Raises `BadInput` for anything else, and for another machine without a token.
        """
        try:
            found = urlsplit(url)
            port = found.port or (443 if found.scheme == "https" else 80)
            options = dict(parse_qsl(found.query, keep_blank_values=True, strict_parsing=bool(found.query)))
        except ValueError as error:
            raise BadInput(f"'{url}': no address ({error})") from None
        if found.scheme not in ("http", "https") or not found.hostname or found.fragment:
            raise BadInput(f"'{url}': no address; expected http://127.0.0.1:PORT")
        if found.username or found.password or "token" in options:
            raise BadInput(f"{found.hostname}: no token or password in an address, which is kept; set {variable}")
        token = os.environ.get(variable) or None
        if token is None and not is_loopback(found.hostname):
            raise BadInput(f"'{url}': is another machine: set its token in the environment variable {variable}")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise BadInput(f"{variable}: a token is made of plain characters")
        timeout, attempts = _number(url, options, "timeout", 60.0), int(_number(url, options, "attempts", 4))
        if options:
            raise BadInput(f"'{url}': takes timeout and attempts behind '?', not {next(iter(options))}")
        return cls(found.scheme == "https", found.hostname, port, found.path.rstrip("/"), token, timeout, attempts)

    def __str__(self) -> str:
        """Return the address for a message."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path}"

    def tries(self, most: int | None = None) -> Iterator[int]:
        """Yield the numbers of the attempts, waiting longer before each: doubled, times a random ½ to 1½.

        At random, lest many who failed together come back together.
        """
        for number in range(most or self.attempts):
            if number:
                time.sleep(min(LONGEST_PAUSE, self.pause * 2.0 ** (number - 1) * random.uniform(0.5, 1.5)))
            yield number

    def insist(self, path: str, read: Callable[[Any], T], question: Any = None, limit: int = 1 << 20) -> T:
        """Return what ``read`` makes of the answer, asked for again for as long as that may help.

        Raises the last `NoAnswer`, be it of the question or of ``read``.
        """
        last = NoAnswer(f"{self}: was never asked")
        for _ in self.tries():
            try:
                return read(self.ask(path, question, limit))
            except NoAnswer as error:
                last = error
                if not error.passing:
                    break
        raise last

    def ask(self, path: str, question: Any = None, limit: int = 1 << 20, timeout: float | None = None) -> Any:
        """Return the JSON that answers ``question`` (a POST; without one, a GET), of at most ``limit`` bytes.

        Asks once. Raises `NoAnswer`, after ``timeout`` seconds if not after the service's own.
        """
        timeout = self.timeout if timeout is None else min(timeout, self.timeout)
        deadline = time.monotonic() + timeout
        body = None if question is None else json.dumps(question, allow_nan=False).encode()
        connection = self._connection(timeout)
        try:
            connection.connect()
            with _hung_up(connection.sock, timeout):
                connection.request("GET" if body is None else "POST", self.path + path, body, self._headers())
                answer = connection.getresponse()
                data = answer.read(limit + 1) if answer.status == 200 else answer.read(300)
        except (OSError, HTTPException, ValueError) as error:
            late = time.monotonic() >= deadline or isinstance(error, TimeoutError)
            what = f"no answer within {timeout:g} s" if late else f"{type(error).__name__}: {error}"
            raise NoAnswer(f"{self}: {what}") from None
        finally:
            connection.close()
        if time.monotonic() >= deadline:
            raise NoAnswer(f"{self}: no whole answer within {timeout:g} s")
        return self._read(answer, data, limit)

    def _read(self, answer: HTTPResponse, data: bytes, limit: int) -> Any:
        if answer.status != 200:
            passing = answer.status in PASSING or answer.status >= 500
            raise NoAnswer(f"{self}: status {answer.status}: {data.decode(errors='replace')}", passing)
        if len(data) > limit:
            raise NoAnswer(f"{self}: an answer of more than {limit} bytes")
        if answer.length:
            raise NoAnswer(f"{self}: an answer that was cut off")
        try:
            return json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            raise NoAnswer(f"{self}: an answer that is not whole JSON") from None

    def _connection(self, timeout: float) -> HTTPConnection:
        if not self.secure:
            return HTTPConnection(self.host, self.port, timeout=timeout)
        return HTTPSConnection(self.host, self.port, timeout=timeout, context=ssl.create_default_context())

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "application/json", "connection": "close"}
        return headers | ({"authorization": f"Bearer {self.token}"} if self.token else {})


def printable(text: str) -> str:
    """Return what a stranger sent as one short line that cannot steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


@contextmanager
def _hung_up(line: socket.socket, seconds: float) -> Iterator[None]:
    """Hang up after ``seconds``: a socket's own timeout begins anew with every byte that drips in."""

    def hang_up() -> None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _number(url: str, options: dict[str, str], name: str, default: float) -> float:
    text = options.pop(name, None)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400 or (name == "attempts" and value != int(value)):
        raise BadInput(f"'{url}': {name}={text} is no number of {'attempts' if name == 'attempts' else 'seconds'}")
    return value
