"""A vision-language model as a judge: ``judge@FILE.yaml``, whose rubric is part of who judges (`Reward.id`).

    question    P("yes") to one question about a picture
    checklist   P("yes") to several; their mean, or with weights, which `train_checklist` learns, Σ w · logit P
    pairwise    which of two pictures, asked in both orders: P = (P("A" | a, b) + P("B" | b, a)) / 2

A model that prefers whatever stands first contradicts itself between the orders: P is then ½, a tie, and ``std`` is how
far the two answers lie from P. The score of a picture is the mean of P over the others of its group.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Literal, final

import torch
from torch import Tensor

from rlhf_images import config as configs
from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .chat import Chat, LocalChat, Question
from .served_chat import ServedChat, Told

YES, NO, FIRST, SECOND = "yes", "no", "A", "B"
SURE = 7.0
"""Log-odds beyond which a yes or a no is as good as certain."""


@final
@dataclass(frozen=True)
class YesNo:
    """One question."""

    name: Literal["question"] = "question"
    question: str = 'Is this a good picture of "{prompt}"? Answer yes or no.'
    """``{prompt}`` stands for the picture's."""


@final
@dataclass(frozen=True)
class Checklist:
    """Several questions."""

    name: Literal["checklist"] = "checklist"
    questions: dict[str, str] = field(default_factory=dict)
    """By the names under which their answers are shown; ``{prompt}`` stands for the picture's."""
    weights: dict[str, float] | None = None
    """Log-odds of being preferred for one of the answer's; learnt by ``train-reward``. None: the mean chance counts."""

    def __post_init__(self) -> None:
        """Refuse an empty list, and weights of other questions."""
        if not self.questions:
            raise ValueError("a checklist needs questions")
        if self.weights is not None and self.weights.keys() != self.questions.keys():
            raise ValueError("a checklist has a weight for each question, or none at all")


@final
@dataclass(frozen=True)
class Pairwise:
    """Which of two."""

    name: Literal["pairwise"] = "pairwise"
    question: str = (
        'Here are two pictures of "{prompt}": A, the first, and B, the second. Which one is better? Answer A or B.'
    )


@final
@dataclass(frozen=True)
class JudgeConfig:
    """Who is asked, and what."""

    model: str
    """A vision-language model that transformers loads, a folder or a name; or a server, ``http://127.0.0.1:8000/v1``."""
    ask: YesNo | Checklist | Pairwise
    """The rubric, by its ``name``."""
    served: str | None = None
    """The model's name at the server."""
    told: Told = "logprobs"
    """What a server's answers are read from; ``word`` where it gives no logprobs: then they are 0 or 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of a model on this machine."""

    def __post_init__(self) -> None:
        """Refuse what goes with a server only, or with a model here, and a server without a model's name."""
        if self.model.startswith(("http://", "https://")) != (self.served is not None):
            raise ValueError("'served' is the model's name at a server, and goes with 'model: http://…'")
        if self.served is None and self.told != "logprobs":
            raise ValueError("'told': a model on this machine gives its chances; leave it out")
        if self.served is not None and self.dtype != "float32":
            raise ValueError("'dtype': a served model is in the server's own; leave it out")


class Judge(Reward):
    """What the kinds of judges share: somebody to ask, and a rubric."""

    def __init__(self, chat: Chat, ask: YesNo | Checklist | Pairwise) -> None:
        self.chat, self.ask = chat, ask
        self.at_once = chat.remote
        self.can = replace(self.can, remote=chat.remote)

    @property
    def id(self) -> str:
        """Return a hash of the model and of the rubric's every word."""
        return identity("judge", self.chat.id, json.dumps(configs.plain(self.ask), sort_keys=True))

    def to(self, device: torch.device | str) -> "Judge":
        """Return the judge with the weights, if any are here, on ``device``."""
        self.chat.to(device)
        return self

    @abstractmethod
    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``."""

    def _chances(self, questions: list[Question], answers: tuple[str, str]) -> Tensor:
        """Return the chance of the first of two answers ``(Q,)``; pictures that are not finite are not shown."""
        whole = [i for i, one in enumerate(questions) if all(bool(torch.isfinite(x).all()) for x in one.images)]
        found = torch.full((len(questions),), torch.nan)
        if whole:
            found[whole] = self.chat.chances([questions[i] for i in whole], answers)[:, 0].float()
        return found


@final
class YesJudge(Judge):
    """0 to 1: how likely it says yes."""

    can = Capabilities()
    ask: YesNo

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return P("yes") ``(B,)``."""
        texts = [_filled(self.ask.question, prompt) for prompt in prompts]
        questions = [Question((image,), text) for image, text in zip(images, texts, strict=True)]
        return Scores.of(self._chances(questions, (YES, NO)).to(images.device))


@final
class ChecklistJudge(Judge):
    """The mean chance of yes, 0 to 1; with weights, log-odds of being preferred. The components are the chances."""

    can = Capabilities(trainable=True)
    ask: Checklist

    def __init__(self, chat: Chat, ask: Checklist) -> None:
        super().__init__(chat, ask)
        self.log_odds = ask.weights is not None

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``; a picture with a question that got no answer has none."""
        names = list(self.ask.questions)
        questions = [
            Question((image,), _filled(self.ask.questions[name], prompt))
            for image, prompt in zip(images, prompts, strict=True)
            for name in names
        ]
        chances = self._chances(questions, (YES, NO)).view(len(prompts), len(names)).to(images.device)
        if self.ask.weights is None:
            mean = chances.mean(1)
        else:
            worth = torch.tensor([self.ask.weights[name] for name in names], device=images.device)
            mean = (log_odds(chances) * worth).sum(1)  # a matrix product would be in half precision under autocast
        return Scores.of(mean, components=dict(zip(names, chances.unbind(1), strict=True)))


@final
class PairwiseJudge(Judge):
    """Compares; the score of a picture is how often it is preferred to the others of its group, 0 to 1."""

    can = Capabilities(groupwise=True, pairwise=True, uncertainty=True)
    ask: Pairwise

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the mean P ``(B,)`` over the others of the group; a picture alone has no score."""
        mean, std = torch.full((2, len(prompts)), torch.nan).unbind(0)
        known = [i for i, image in enumerate(images) if bool(torch.isfinite(image).all())]
        if len(known) > 1:
            others = ~torch.eye(len(known), dtype=torch.bool)
            first = torch.zeros(len(known), len(known))
            first[others] = self._first([(images[i], images[j], prompts[i]) for i, j in permutations(known, 2)])
            preferred, spread = (each[others].view(len(known), -1) for each in _agreed(first, first.T))
            mean[known], std[known] = preferred.mean(1), spread.square().sum(1).sqrt() / (len(known) - 1)
        return Scores.of(mean.to(images.device), std.to(images.device))

    def prefer(self, *, left: Tensor, right: Tensor, prompts: Sequence[str]) -> Scores:
        """Return P(left is preferred) ``(B,)``; ``std`` and the components say how the two orders differ."""
        rows = list(zip(left, right, prompts, strict=True))
        forth, back = self._first([*rows, *((b, a, prompt) for a, b, prompt in rows)]).to(left.device).chunk(2)
        return Scores.of(*_agreed(forth, back), {"left first": forth, "right first": 1 - back})

    def _first(self, rows: Sequence[tuple[Tensor, Tensor, str]]) -> Tensor:
        """Return the chance that the first of two pictures is called the better ``(Q,)``."""
        questions = [Question((a, b), _filled(self.ask.question, prompt)) for a, b, prompt in rows]
        return self._chances(questions, (FIRST, SECOND))


def load(file: str) -> Judge:
    """Return the judge that a YAML file describes."""
    try:
        configs.find(file)
    except BadInput:
        own = [name for name in configs.shipped() if name.startswith("judge/") and not name.endswith("/reward.yaml")]
        raise BadInput(f"judge@{file}: no such file; shipped ones: {', '.join(own)}") from None
    return judge(configs.load(JudgeConfig, file))


def judge(config: JudgeConfig) -> Judge:
    """Return the judge of ``config``."""
    chat = chat_of(config)
    if isinstance(config.ask, YesNo):
        return YesJudge(chat, config.ask)
    return ChecklistJudge(chat, config.ask) if isinstance(config.ask, Checklist) else PairwiseJudge(chat, config.ask)


def chat_of(config: JudgeConfig) -> Chat:
    """Return whom ``config`` asks."""
    if config.served is not None:
        return ServedChat(config.model, config.served, config.told)
    return LocalChat(config.model, config.dtype)


def log_odds(chances: Tensor) -> Tensor:
    """Return log P / (1 - P), at most `SURE` either way."""
    return torch.logit(chances, eps=1 / (1 + math.exp(SURE)))


def _agreed(forth: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Return P and std from P("the first" | a, b) and P("the first" | b, a), of the same shape."""
    return (forth + 1 - back) / 2, (forth - (1 - back)).abs() / 2


def _filled(text: str, prompt: str) -> str:
    return text.replace("{prompt}", prompt)
