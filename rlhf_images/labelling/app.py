"""The page's server: a handful of routes over an assignment of pairs, behind `security.Guard`.

Files of the page are read once, at the start, and looked up by name: no path of a request ever reaches the disk. What
waits for the disk or the database runs in threads; writes go one after the other, in the order in which they came.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Any, final
from urllib.parse import quote, unquote

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..errors import BadInput
from ..preferences.assignment import Assignment
from ..preferences.events import MAX_NAME, TAGS, Event, other_side, standing
from ..preferences.summary import Summary
from ..preferences.writing import Refused
from ..progress import say
from . import guide, history, pictures
from .figures import figures
from .security import Door, Guard, refused

NextStep = Callable[[Summary], str]
PAGES = {"/": "label.html", "/review": "review.html", "/stats": "stats.html", "/guide": "guide.html"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
MARK = b"<!-- the guidelines -->"
FOREVER = "private, max-age=31536000, immutable"
"""For pictures: an id is the hash of its content."""
MAX_AHEAD = 16
"""Pairs that one question may take."""
MAX_EVENTS = 500
"""Events of one request."""
MAX_HISTORY = 1000
"""Rows of one answer."""


def application(
    assignment: Assignment, door: Door, annotator: str | None = None, next_step: NextStep | None = None
) -> ASGIApp:
    """Return the ASGI application: ``annotator`` is who votes where neither address nor cookie says so.

    ``next_step`` tells the command that makes something of the round. Raises `BadInput` for a store that is unusable.
    """
    with assignment.pairs.store.writing() as writing:  # from now on no reader ever meets half of its tables
        writing.can_be_written()
    desk = Desk(assignment, door, annotator, next_step)
    routes = [
        *(Route(path, desk.page) for path in PAGES),
        Route("/page/{name}", desk.file),
        Route("/favicon.ico", desk.icon),
        Route("/i/{picture}", desk.picture),
        Route("/api/me", desk.me),
        Route("/api/next", desk.next),
        Route("/api/events", desk.events, methods=["POST"]),
        Route("/api/history", desk.history),
        Route("/api/stats", desk.stats),
        Route("/api/guide", desk.guide),
        Route("/api/guide", desk.write_guide, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: _no, BadInput: _unusable, OSError: _unusable, 500: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # an address is right or 404
    return Guard(app, door)


@final
class Desk:
    """What is behind each address. Every method is an endpoint."""

    def __init__(self, assignment: Assignment, door: Door, annotator: str | None, next_step: NextStep | None) -> None:
        self.assignment = assignment
        self.pairs = assignment.pairs
        self.store = assignment.pairs.store
        self.known = {pair.pair: pair for pair in self.pairs.pairs}
        self.annotator = annotator
        self.next_step = next_step
        self.cookie = f"{door.cookie}_annotator"
        self.writing = anyio.CapacityLimiter(
            1
        )  # threads that queue here are served in turn; at the database they are not
        self.files = {
            entry.name: entry.read_bytes()
            for entry in (files("rlhf_images.labelling") / "page").iterdir()
            if "." + entry.name.rpartition(".")[2] in TYPES
        }

    async def page(self, request: Request) -> Response:
        """Send a page; ``?annotator=`` is remembered for the requests that do not name one."""
        answer = self._sent(PAGES[request.url.path])
        if request.url.path == "/guide":
            text = guide.rendered(await self._thread(guide.read, self.pairs.folder)).encode()
            answer = HTMLResponse(self.files["guide.html"].replace(MARK, text), headers={"cache-control": "no-store"})
        name = request.query_params.get("annotator")
        if name is not None:
            value = quote(_name(name), safe="")
            answer.set_cookie(self.cookie, value, max_age=30 * 86400, httponly=True, samesite="strict")
        return answer

    async def file(self, request: Request) -> Response:
        """Send a file of the page."""
        return self._sent(request.path_params["name"])

    async def icon(self, _: Request) -> Response:
        """Send the icon to browsers that ask for it by habit."""
        return self._sent("icon.svg")

    async def picture(self, request: Request) -> Response:
        """Send a picture of the round, by id."""
        wanted = request.path_params["picture"]
        if wanted not in self.pairs.pictures:
            raise HTTPException(404, "no such picture")
        try:
            data = await self._thread(pictures.served, self.pairs.folder, wanted)
        except ValueError as error:
            raise HTTPException(422, f"a corrupt picture: {error}") from None
        if data is None:
            raise HTTPException(404, "no such picture")
        return Response(data, headers={"cache-control": FOREVER}, media_type="image/png")

    async def me(self, request: Request) -> Response:
        """Say who asks, what round this is, and what tags there are."""
        named = request.query_params.get("annotator") or unquote(request.cookies.get(self.cookie, ""))
        return _json({"annotator": named or self.annotator, "round": self.store.round, "tags": TAGS})

    async def next(self, request: Request) -> Response:
        """Hand out the next pairs."""
        annotator, n = self._who(request), _number(request, "n", 1, MAX_AHEAD)
        shown = await self._write(self.assignment.next, annotator, n)
        done, total = await self._write(self.assignment.progress, annotator)
        rows = [{"pair": one.pair, "prompt": one.prompt, "left": one.left, "right": one.right} for one in shown]
        return _json({"pairs": rows, "done": done, "total": total})

    async def events(self, request: Request) -> Response:
        """Store events; the answer is given once they are on disk."""
        annotator, rows = self._who(request), await _body(request)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or len(rows) > MAX_EVENTS:
            raise HTTPException(400, f"send a list of at most {MAX_EVENTS} events, each an object")
        events = [self._event(annotator, row) for row in rows]
        return _json({"saved": await self._write(self._stored, events)})

    async def history(self, request: Request) -> Response:
        """Return what stands of what the annotator did, newest first: ``n`` at most, before ``before``, on ``pair``."""
        annotator, n = self._who(request), _number(request, "n", 50, MAX_HISTORY)
        events = await self._thread(self.store.events, annotator)
        votes = await self._thread(self.store.votes) if request.query_params.get("compare") else []
        rows = history.rows(standing(events), self.known, votes)
        before, pair = request.query_params.get("before"), request.query_params.get("pair")
        if before is not None:  # one that was taken back since is a place in time as well
            older = set(itertools.takewhile(lambda id_: id_ != before, (event.id for event in events)))
            rows = [row for row in rows if row["id"] in older]
        if pair is not None:
            rows = [row for row in rows if row["pair"] == pair]
        return _json({"events": rows[:n], "more": len(rows) > n})

    async def stats(self, request: Request) -> Response:
        """Return the figures of the round."""
        return _json(await self._thread(figures, self.assignment, self._who(request), self.next_step))

    async def guide(self, _: Request) -> Response:
        """Return the guidelines as text."""
        text = await self._thread(guide.read, self.pairs.folder)
        return _json({"text": text, "version": guide.version_of(text)})

    async def write_guide(self, request: Request) -> Response:
        """Replace the guidelines."""
        body = await _body(request)
        if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in ("text", "version")):
            raise HTTPException(400, "send {text, version}")
        if len(body["text"]) > guide.MAX_CHARACTERS:
            raise HTTPException(400, f"at most {guide.MAX_CHARACTERS} characters")
        if not await self._write(guide.write, self.pairs.folder, body["text"], body["version"]):
            raise HTTPException(409, "changed by someone else meanwhile; copy your text, reload, and put it in again")
        return await self.guide(request)

    def _event(self, annotator: str, row: dict[str, Any]) -> Event:
        """Return the event of ``row``. Its ``left``, the picture that stood on the left, settles the sides.

        A vote that was given before the server started anew with another seed still means what was seen.
        """
        try:
            event = self.assignment.event(annotator, row)
        except BadInput as error:
            raise HTTPException(400, self._blind(error)) from None
        left = row.get("left")
        if left is None or event.type != "vote":
            return event
        pair = self.known[event.pair]
        if left not in (pair.left, pair.right):
            raise HTTPException(400, f"event {event.id}: picture '{str(left)[:80]}' is not of its pair")
        swapped = left == pair.right
        choice = event.choice if swapped == event.swapped else other_side(event.choice)
        return replace(event, swapped=swapped, choice=choice)

    def _stored(self, events: list[Event]) -> list[str]:
        """Store ``events``; a refusal that is about them is told apart from a store that cannot be used just now."""
        try:
            return self.store.add(events)
        except Refused as error:
            raise HTTPException(422, self._blind(error)) from None
        except (BadInput, OSError) as error:
            say(f"not stored: {error}")
            raise HTTPException(503, "the votes cannot be stored just now; the server's terminal says why") from None

    def _blind(self, error: BadInput) -> str:
        """Return what went wrong without the folder's name, which may say whose pictures these are."""
        return str(error).replace(str(self.pairs.folder), "this round")

    def _sent(self, name: str) -> Response:
        if name not in self.files:
            raise HTTPException(404, "no such file")
        kind = TYPES["." + name.rpartition(".")[2]]
        return Response(self.files[name], headers={"cache-control": "no-cache", "content-type": kind})

    def _who(self, request: Request) -> str:
        """Return the annotator of a request; refuse one of another round's page."""
        if request.query_params.get("round", self.store.round) != self.store.round:
            raise HTTPException(409, "this address now serves another round; reload the page")
        query, cookie = request.query_params.get("annotator"), request.cookies.get(self.cookie)
        return _name(query if query is not None else unquote(cookie) if cookie else self.annotator)

    async def _thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(work, *arguments)

    async def _write(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run ``work`` to its end, one at a time, even where the client has gone: half an answer is no answer."""
        with anyio.CancelScope(shield=True):
            return await anyio.to_thread.run_sync(work, *arguments, limiter=self.writing)


def _name(given: str | None) -> str:
    name = (given or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise HTTPException(400, f"say who you are: ?annotator=NAME, of 1 to {MAX_NAME} printable characters")
    return name


def _number(request: Request, key: str, default: int, most: int) -> int:
    given = request.query_params.get(key, str(default))
    if not (given.isascii() and given.isdecimal()) or len(given) > 9 or not 1 <= int(given) <= most:
        raise HTTPException(400, f"{key}: a number from 1 to {most}")
    return int(given)


async def _body(request: Request) -> Any:
    data = await request.body()
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON in UTF-8") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json(content: Any) -> Response:
    return JSONResponse(content, headers={"cache-control": "no-store"})


async def _no(_: Request, error: HTTPException) -> Response:
    return refused(error.status_code, " ".join(str(error.detail).split()))


async def _unusable(_: Request, error: BadInput | OSError) -> Response:
    say(f"refused: {error}")
    return refused(503, "the round cannot be read or written just now; the server's terminal says why")


async def _failed(_: Request, __: Exception) -> Response:
    return refused(500, "the server failed; its terminal says how")
