"""Serve any reward to other processes: `remote` is its client and says what is sent. Behind `security.Guard`.

Pictures are decoded as anywhere else, formats and sizes bounded; nothing is unpickled, and nothing of a request reaches
the disk. One question is scored at a time: there is one model.
"""

import base64
import binascii
import json
import math
import os
import secrets
from typing import Any, final

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rlhf_images.errors import RewardFailed
from rlhf_images.labelling.security import Door, Guard, is_loopback, refused
from rlhf_images.labelling.server import bound, prepared, reached_at
from rlhf_images.pictures import Judged, score_pictures
from rlhf_images.progress import say
from rlhf_images.reward import Reward, Scores

from .remote import TOKEN

MAX_BODY = 128 << 20
"""Bytes of a question: four pictures of 2048×2048 pixels of pure noise take 68 million."""
MAX_PICTURES = 1024
MAX_PROMPT = 20_000
"""Characters."""
WAITING = 8
"""Questions that are read or scored at the same time; others wait outside, in the order in which they came."""


def serve_reward(reward: Reward, name: str, *, host: str, port: int, token: str | None) -> None:
    """Serve ``reward``, which the user calls ``name``, until Ctrl-C.

    A host that other machines can reach needs a token, which is made if none is given. Raises `BadInput` for an address
    that cannot be used.
    """
    token = token or os.environ.get(TOKEN) or None
    made = None if token or is_loopback(host) else secrets.token_urlsafe(24)
    listening = bound(host, port)
    door = Door(host, listening.getsockname()[1], token or made)
    say(f"{name} ({reward.id}) is served; use it as   reward: remote@{reached_at(door)}")
    if made:
        say(f"clients show the token: {TOKEN}={made}")
    say("Ctrl-C ends")
    try:
        prepared(application(reward, door)).run(sockets=[listening])
    except KeyboardInterrupt:
        say("")
    finally:
        listening.close()


def application(reward: Reward, door: Door) -> ASGIApp:
    """Return the ASGI application that serves ``reward``."""
    counter = Counter(reward)
    routes = [Route("/v1/model", counter.model), Route("/v1/score", counter.score, methods=["POST"])]
    handlers: dict[Any, Any] = {HTTPException: _no, 500: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, door, MAX_BODY)


@final
class Counter:
    """What is behind each address. Every public method is an endpoint."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.name = reward.id
        self.inside = anyio.Semaphore(WAITING)
        self.scoring = anyio.CapacityLimiter(1)

    async def model(self, _: Request) -> Response:
        """Say what is served."""
        can = {"groupwise": self.reward.can.groupwise, "uncertainty": self.reward.can.uncertainty}
        scores = {"log_odds": self.reward.log_odds, "reference": self.reward.reference.tolist()}
        return JSONResponse({"model": self.name, "can": can, **scores})

    async def score(self, request: Request) -> Response:
        """Score the pictures of one question."""
        async with self.inside:
            body = await request.body()
            ids, prompts, pictures = await anyio.to_thread.run_sync(self._question, body)
            judged = await anyio.to_thread.run_sync(self._judged, pictures, prompts, limiter=self.scoring)
        return JSONResponse({"model": self.name, "scores": _rows(ids, judged)})

    def _question(self, body: bytes) -> tuple[list[str], list[str], list[bytes]]:
        """Return ids, prompts and pictures of a question; refuses one that is for another model."""
        try:
            asked = json.loads(body.decode("utf-8"))
            if asked.get("model", self.name) != self.name:
                raise HTTPException(409, f"{self.name} is served here")
            rows = asked["pictures"]
            ids, prompts = [row["id"] for row in rows], [row["prompt"] for row in rows]
            pictures = [base64.b64decode(row["png"], validate=True) for row in rows]
            _ = [text.encode() for text in [*ids, *prompts]]  # half a surrogate pair is no text, and no answer's id
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, binascii.Error):
            raise HTTPException(
                400, "send {model, pictures: [{id, prompt, png: base64}, …]} as JSON in UTF-8"
            ) from None
        if not all(isinstance(text, str) and len(text) <= MAX_PROMPT for text in [*ids, *prompts]):
            raise HTTPException(400, f"ids and prompts are texts of at most {MAX_PROMPT} characters")
        if not 1 <= len(rows) <= MAX_PICTURES or len(set(ids)) < len(ids):
            raise HTTPException(400, f"send 1 to {MAX_PICTURES} pictures, each with an id of its own")
        return ids, prompts, pictures

    def _judged(self, pictures: list[bytes], prompts: list[str]) -> Judged:
        """Return the scores; where the reward as a whole fails, each picture has."""
        groups = [0] * len(pictures) if self.reward.can.groupwise else None
        try:
            return score_pictures(self.reward, pictures, prompts, groups=groups, told=None)
        except RewardFailed as error:
            say(f"failed: {error}")
            unknown = Scores.of(self.reward.reference.new_full((len(pictures),), math.nan))
            return Judged(unknown, dict.fromkeys(range(len(pictures)), "the reward failed; the server says how"))


def _rows(ids: list[str], judged: Judged) -> list[dict[str, Any]]:
    """Return an answer's rows. JSON has no NaN: a component that is unknown is null."""
    scores = judged.scores
    columns = {name: part.tolist() for name, part in scores.components.items()}
    rows: list[dict[str, Any]] = []
    for i, id_ in enumerate(ids):
        if not scores.valid[i]:
            rows.append({"id": id_, "valid": False, "error": judged.failures.get(i, "no score")})
            continue
        parts = {name: part[i] if math.isfinite(part[i]) else None for name, part in columns.items()}
        std = {} if scores.std is None else {"std": float(scores.std[i])}
        rows.append({"id": id_, "valid": True, "mean": float(scores.mean[i]), **std, "components": parts})
    return rows


async def _no(_: Request, error: HTTPException) -> Response:
    return refused(error.status_code, str(error.detail))


async def _failed(_: Request, __: Exception) -> Response:
    return refused(500, "the reward failed; the server's terminal says how")
