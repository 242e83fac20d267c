"""A reward in another process or on another machine: ``remote@http://127.0.0.1:8720``, served by ``serve-reward``.

    GET  /v1/model   → {"model": id, "can": {"groupwise", "uncertainty"}, "log_odds", "reference": [sorted scores]}
    POST /v1/score     {"model": id, "pictures": [{"id", "prompt", "png": base64}, …]}
                     → {"model": id, "scores": [{"id", "valid", "mean", "std", "components"}, …]}

All pictures of a question have one size; of a groupwise reward they are one group. Answers are joined by id, in any
order. The server is not trusted: a picture whose score did not come back right is asked again, and in the end has none.
"""

import base64
import math
import secrets
import time
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard, final

import torch
from torch import Tensor

from rlhf_images.data import encode
from rlhf_images.errors import BadInput
from rlhf_images.progress import say
from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .web import NoAnswer, Service, printable

TOKEN = "RLHF_IMAGES_REWARD_TOKEN"
"""The environment variable with the server's token."""
PER_QUESTION = 4
"""Pictures in one question; a failure costs as many."""
CONNECTIONS = 4
"""Questions at the same time."""
UNUSUAL, AT_LEAST = 4.0, 1.0
"""An attempt is given up after so many times the usual time and so many seconds; the last one has all of its time."""
ANSWER = 4096
"""Bytes that the answer may have for each picture."""
MAX_COMPONENTS = 32
MAX_REFERENCE = 100_000


@final
@dataclass(frozen=True)
class Row:
    """The score of one picture, as it came back right."""

    valid: bool
    mean: float = math.nan
    std: float = math.nan
    components: dict[str, float] = field(default_factory=dict)


@final
class Remote(Reward):
    """A client: pictures leave as 8-bit PNGs, scores come back. Made by `load`."""

    at_once = True

    def __init__(self, service: Service, model: str, can: Capabilities, log_odds: bool, reference: Tensor) -> None:
        self.service, self.model, self.can, self.log_odds, self.reference = service, model, can, log_odds, reference
        self._down = False
        """Whether the last question failed however often it was asked: then others are asked once only."""
        self._usual: float | None = None
        """Seconds until an answer, on a moving average."""

    @classmethod
    def load(cls, url: str) -> "Remote":
        """Return the reward that is served at ``url``. Raises `BadInput` if none answers there."""
        service = Service.at(url, TOKEN)
        try:
            return cls(service, *service.insist("/v1/model", _described, limit=MAX_REFERENCE * 32))
        except NoAnswer as error:
            raise BadInput(
                f"remote@{url}: no reward server there ({error}); start one: rlhf-images serve-reward MODEL"
            ) from None

    @property
    def id(self) -> str:
        """Return a hash of the served model's id: where it is served does not matter."""
        return identity("remote", self.model)

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``, on the pictures' device; what did not come back right is not valid."""
        finite = torch.isfinite(images).flatten(1).all(1).tolist()
        rows = [row for row, whole in enumerate(finite) if whole]
        size = max(1, len(rows)) if self.can.groupwise else PER_QUESTION
        questions = [rows[i : i + size] for i in range(0, len(rows), size)]
        pictures = images.detach().cpu()
        found: dict[int, Row] = {}
        reasons: list[str] = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for answered, reason in pool.map(partial(self._answered, pictures, prompts), questions):
                found |= answered
                reasons += [reason] if reason else []
        if reasons:
            lost = sum(row not in found for row in rows)
            say(f"reward server: no score for {lost} of {len(prompts)} pictures; {reasons[0]}")
        return self._scores(found, len(prompts), images.device)

    def _answered(self, images: Tensor, prompts: Sequence[str], rows: list[int]) -> tuple[dict[int, Row], str]:
        """Return what came back right of one question, by row, and why the rest did not."""
        pngs = {row: base64.b64encode(encode(images[row], compress_level=1)).decode() for row in rows}
        found: dict[int, Row] = {}
        reason = ""
        attempts = 1 if self._down else self.service.attempts
        for attempt in self.service.tries(attempts):
            patience = None if self._usual is None or attempt == attempts - 1 else max(AT_LEAST, UNUSUAL * self._usual)
            missing = rows if self.can.groupwise else [row for row in rows if row not in found]
            salt = secrets.token_hex(8)  # an answer to anything but this question has other ids
            asked = {f"{salt}-{row}": row for row in missing}
            pictures = [{"id": id_, "prompt": prompts[row], "png": pngs[row]} for id_, row in asked.items()]
            begun = time.monotonic()
            try:
                question = {"model": self.model, "pictures": pictures}
                answer = self.service.ask("/v1/score", question, ANSWER * (len(rows) + 1), patience)
                found |= {asked[id_]: row for id_, row in self._rows(answer, asked.keys()).items()}
                seconds = time.monotonic() - begun
                self._usual = seconds if self._usual is None else 0.9 * self._usual + 0.1 * seconds
                reason = "" if len(found) == len(rows) else f"{self.service}: not every picture has a right score"
            except NoAnswer as error:
                reason = str(error)
                if not error.passing:
                    break
            if not reason:
                break
        self._down = bool(reason) and not found
        return found, reason

    def _rows(self, answer: Any, asked: Set[str]) -> dict[str, Row]:
        """Return the rows of an answer that are right, by id; one with a foreign or a repeated id is no answer."""
        if not isinstance(answer, dict) or not isinstance(answer.get("scores"), list):
            raise NoAnswer(f"{self.service}: an answer that is not of a reward server")
        if answer.get("model") != self.model:
            raise NoAnswer(f"{self.service}: scores with {answer.get('model')} now, not with {self.model}", False)
        ids = [str(row.get("id")) if isinstance(row, dict) else "" for row in answer["scores"]]
        if not asked >= set(ids) or len(set(ids)) < len(ids):
            raise NoAnswer(f"{self.service}: an answer about pictures that were not asked, or twice")
        read = {id_: _row(row, self.can.uncertainty) for id_, row in zip(ids, answer["scores"], strict=True)}
        right = {id_: row for id_, row in read.items() if row is not None}
        if self.can.groupwise and len(right) < len(asked):
            raise NoAnswer(f"{self.service}: not every picture of the group has a right score")
        return right

    def _scores(self, found: dict[int, Row], count: int, device: torch.device) -> Scores:
        names = dict.fromkeys(name for row in found.values() for name in row.components)

        def column(value: Any) -> Tensor:
            given = [value(found[row]) if row in found else math.nan for row in range(count)]
            return torch.tensor(given, dtype=torch.float64).float().to(device)

        mean = column(lambda row: row.mean)
        valid = torch.tensor([row in found and found[row].valid for row in range(count)], device=device)
        std = column(lambda row: row.std) if self.can.uncertainty else None
        parts = {name: column(lambda row, name=name: row.components.get(name, math.nan)) for name in names}
        return Scores(mean, valid & torch.isfinite(mean), std, parts)


def _described(told: Any) -> tuple[str, Capabilities, bool, Tensor]:
    """Return model, capabilities, log-odds and reference from what a server says of itself; raises `NoAnswer`.

    One that does not say whether its scores are in log-odds is taken to have others.
    """
    try:
        model, can, reference, log_odds = told["model"], told["can"], told["reference"], told.get("log_odds", False)
        groupwise, uncertainty = can["groupwise"], can["uncertainty"]
        right = (
            isinstance(model, str)
            and model.isprintable()
            and 0 < len(model) <= 300
            and type(groupwise) is bool
            and type(uncertainty) is bool
            and type(log_odds) is bool
        )
        right = right and isinstance(reference, list) and all(_finite(score) for score in reference)
    except (TypeError, KeyError, AttributeError):
        right = False
    if not right:
        raise NoAnswer("an answer that is not of a reward server", passing=False)
    declared = Capabilities(groupwise=groupwise, uncertainty=uncertainty, remote=True)
    return model, declared, log_odds, torch.tensor(reference, dtype=torch.float64).float().sort().values


def _row(row: dict[str, Any], unsure: bool) -> Row | None:
    """Return one picture's score, or None where anything in it is not right. An honest failure is right."""
    if row.get("valid") is False:
        return Row(False)
    mean, std, parts = row.get("mean"), row.get("std") if unsure else 0.0, row.get("components", {})
    if row.get("valid") is not True or not _finite(mean) or not _finite(std) or std < 0 or not isinstance(parts, dict):
        return None
    if len(parts) > MAX_COMPONENTS or not all(value is None or _finite(value) for value in parts.values()):
        return None
    components = {printable(name)[:80]: math.nan if value is None else float(value) for name, value in parts.items()}
    return Row(True, float(mean), float(std), components)


def _finite(value: Any) -> TypeGuard[float]:
    """Return whether ``value`` is a number that float32 holds; True and "1" are none."""
    try:
        return type(value) in (int, float) and abs(value) <= torch.finfo(torch.float32).max
    except OverflowError:
        return False
