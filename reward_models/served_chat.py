"""A vision-language model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, ``transformers serve``.

One request a question, to ``/chat/completions``, the pictures in it as base64 PNGs. The key, if one is needed, comes
from the environment variable `KEY`.
"""

import base64
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor

from rlhf_images.data import encode
from rlhf_images.progress import say
from rlhf_images.reward import identity

from .chat import Chat, Question
from .web import NoAnswer, Service

KEY = "RLHF_IMAGES_JUDGE_KEY"
CONNECTIONS = 4
"""Questions at the same time."""
TOP = 20
"""Likeliest words that are asked for; the answers must be among them."""
Told = Literal["logprobs", "word"]
"""What an answer is read from: the chances of the first word, or the word alone, which then is certain."""


@final
class ServedChat(Chat):
    """``name`` at ``url``, as in ``http://127.0.0.1:8000/v1``."""

    remote = True

    def __init__(self, url: str, name: str, told: Told = "logprobs") -> None:
        self.service, self.name, self.told = Service.at(url, KEY), name, told

    @property
    def id(self) -> str:
        """Return a hash of the model's name: its weights are known to the server alone."""
        return identity("served", self.name, self.told)

    def chances(self, questions: Sequence[Question], answers: Sequence[str]) -> Tensor:
        """Return the chances ``(Q, A)``; NaN where no right answer came back, however often it was asked for."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            found = list(pool.map(partial(self._asked, answers), questions))
        reasons = [reason for _, reason in found if reason]
        if reasons:
            say(f"judge: no answer to {len(reasons)} of {len(questions)} questions; {reasons[0]}")
        none = [math.nan] * len(answers)
        return torch.tensor([chances or none for chances, _ in found]).view(len(questions), len(answers))

    def _asked(self, answers: Sequence[str], question: Question) -> tuple[list[float] | None, str]:
        content = [{"type": "image_url", "image_url": {"url": _url(image)}} for image in question.images]
        message = {"role": "user", "content": [*content, {"type": "text", "text": question.text}]}
        asked: dict[str, Any] = {"model": self.name, "messages": [message], "temperature": 0}
        asked |= (
            {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP} if self.told == "logprobs" else {"max_tokens": 8}
        )
        try:
            return self.service.insist("/chat/completions", partial(self._read, answers), asked), ""
        except NoAnswer as error:
            return None, str(error)

    def _read(self, answers: Sequence[str], answer: Any) -> list[float]:
        """Return the chances that an answer gives; raises `NoAnswer`."""
        try:
            (choice,) = answer["choices"]
            if self.told == "word":
                weights = _certain(str(choice["message"]["content"]), answers)
            else:
                weights = _likely(choice["logprobs"]["content"][0]["top_logprobs"], answers)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError):
            hint = "; does it give logprobs? If not, set told: word" if self.told == "logprobs" else ""
            raise NoAnswer(f"{self.service}: not an answer of a chat model{hint}") from None
        total = sum(weights)
        if not 0 < total < math.inf:
            raise NoAnswer(f"{self.service}: answered neither {' nor '.join(answers)}")
        return [weight / total for weight in weights]


def _likely(words: list[dict[str, Any]], answers: Sequence[str]) -> list[float]:
    """Return the chance of each answer among the likeliest words, in any case and with spaces around them.

    Raises `ValueError` for numbers that are no chances: one that was left out would be a certainty of the other answer.
    """
    found = [0.0] * len(answers)
    known = {answer.casefold(): number for number, answer in enumerate(answers)}
    for word in words:
        number, chance = known.get(str(word["token"]).strip().casefold()), word["logprob"]
        if type(chance) not in (int, float) or not chance <= 1e-3:
            raise ValueError(f"{chance} is no log-chance")
        if number is not None:
            found[number] += math.exp(chance)
    if sum(found) > 1.05:
        raise ValueError(f"chances of {sum(found)} together")
    return found


def _certain(text: str, answers: Sequence[str]) -> list[float]:
    """Return 1 for the answer that is the first word of ``text``."""
    first = text.strip().split()[0].strip(".,:;!*\"'()").casefold() if text.strip() else ""
    return [float(first == answer.casefold()) for answer in answers]


def _url(image: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(encode(image, compress_level=1)).decode()
