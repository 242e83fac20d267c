"""What every request passes first: meant for us, by one of us, from our own page, and of a bounded size.

Who is kept out: another page in the annotator's browser (a foreign Origin; a foreign Host after DNS rebinding; a
frame), another machine (no token), and a client that sends without end. Refusals are one line of JSON.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import cache
from typing import final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20
"""Bytes of a request; a page sends at most 50 events of a few hundred bytes at a time."""
BODY_SECONDS = 30.0
"""A body that takes longer is given up."""
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
"""Sent with every answer, refusals too."""
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)
ORIGIN = re.compile(r"https?://(.+)", re.IGNORECASE)
READING = ("GET", "HEAD")
CALLED = ("/api/", "/i/", "/v1/")
"""Beginnings of paths that a page or a program asks for, and nobody opens."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Return whether a server bound to ``host`` is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
@dataclass(frozen=True)
class Door:
    """Who may come in: the ``host`` the server is bound to, its ``port``, and the ``token`` to show, if any."""

    host: str
    port: int
    token: str | None = None

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise ValueError(f"{self.host} is reached by other machines: it needs a token")

    @property
    def cookie(self) -> str:
        """Return the cookie's name. Cookies are shared by all ports of a host, so it carries the port."""
        return f"rlhf_images_{self.port}"

    @property
    def proof(self) -> str:
        """Return the cookie's value: made from the token, which it does not tell; the same after a restart."""
        return hmac.new((self.token or "").encode(), b"cookie", hashlib.sha256).hexdigest()

    def names(self, host: str | None) -> bool:
        """Return whether a ``Host`` header names this server, and not a site whose name was rebound to its address.

        A name can be rebound, an address cannot: with a token any address will do, since a machine has several.
        """
        found = HOST.fullmatch(host or "")
        if not found:
            return False
        name = found["name"].lower()
        if name in LOOPBACK:
            return True
        if is_loopback(self.host):
            return name == self.host
        return _is_address(name.strip("[]")) or name in {self.host, *_own_names()}


@final
class Guard:
    """ASGI: refuse what does not belong here, bound what does, and send `HEADERS` with every answer of ``app``."""

    def __init__(self, app: ASGIApp, door: Door, max_body: int = MAX_BODY) -> None:
        self.app = app
        self.door = door
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        headers = dict(HEADERS)
        if self._arrives_with_token(request):
            headers["set-cookie"] = (
                f"{self.door.cookie}={self.door.proof}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"
            )
            headers["cache-control"] = "no-store"

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in headers]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in headers.items()]
            await send(message)

        refusal = self._refusal(request)
        if refusal is None:
            await self.app(scope, _bounded(receive, self.max_body), answered)
        else:
            await refusal(scope, receive, answered)

    def _refusal(self, request: Request) -> JSONResponse | None:
        if len(request.headers.getlist("host")) != 1 or not self.door.names(request.headers["host"]):
            return refused(421, "this server does not go by that name; use the address that was printed at its start")
        if self.door.token and not (self._arrives_with_token(request) or self._is_known(request)):
            return refused(401, "not known here; open the address with the token that the server printed at its start")
        if not _from_our_page(request):
            return refused(403, "asked by another site's page")
        if request.method not in READING:
            if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                return refused(415, "send it as application/json")
            length = request.headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > self.max_body:
                return refused(413, f"more than {self.max_body} bytes at once")
        return None

    def _arrives_with_token(self, request: Request) -> bool:
        """Return whether a page is opened by the printed address; the API never takes the token from an address."""
        if self.door.token is None or request.method not in READING or request.url.path.startswith(CALLED):
            return False
        return _same(request.query_params.get("token"), self.door.token)

    def _is_known(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return _same(request.cookies.get(self.door.cookie), self.door.proof) or (
            given.startswith("Bearer ") and _same(given.removeprefix("Bearer "), self.door.token or "")
        )


def refused(status: int, reason: str) -> JSONResponse:
    """Return an answer that says in one line why not."""
    return JSONResponse({"error": reason}, status)


def _from_our_page(request: Request) -> bool:
    """Return whether no foreign page asks. A browser says in ``Origin`` and ``Sec-Fetch-Site``; a script does not.

    Opening a page by a link from elsewhere is fine; a foreign page must not write, nor have pairs handed out to it.
    """
    origin = request.headers.get("origin")
    if origin is not None:
        found = ORIGIN.fullmatch(origin)
        if not found or found[1].lower() != request.headers["host"].lower():
            return False
    site = request.headers.get("sec-fetch-site", "none")
    opened = request.method in READING and request.headers.get("sec-fetch-mode") == "navigate"
    return site in ("same-origin", "none") or (opened and not request.url.path.startswith(CALLED))


def _bounded(receive: Receive, max_body: int) -> Receive:
    """Return ``receive`` that gives up on a body which is too long, or too long in coming."""
    taken = 0
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    whole = False

    async def bounded() -> Message:
        nonlocal taken, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the request took more than {BODY_SECONDS:.0f} s to arrive") from None
        taken += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if taken > max_body:
            raise HTTPException(413, f"more than {max_body} bytes at once")
        return message

    return bounded


def _same(given: str | None, wanted: str) -> bool:
    """Compare in a time that does not depend on where the two differ."""
    return hmac.compare_digest((given or "").encode(), wanted.encode())


@cache
def _own_names() -> frozenset[str]:
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
