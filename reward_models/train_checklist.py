"""The family of checklists: what the answers to a rubric's questions are worth, by a logistic regression on votes.

The model is asked once a picture and a question; then a ridge Bradley–Terry has one weight a question, and the weights
say what people went by.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import torch

from rlhf_images import config as configs
from rlhf_images.config import Positive

from . import saved
from .family import Family, Lesson, Taught, scored
from .judge import Checklist, ChecklistJudge, JudgeConfig, chat_of, log_odds
from .ridge import weighed

FORMAT = "rlhf-images checklist 1"


@final
@dataclass(frozen=True)
class ChecklistConfig(Family):
    """Weights of a checklist's questions."""

    judge: JudgeConfig
    """Who is asked what; its ``ask`` is a checklist."""
    name: Literal["checklist"] = "checklist"
    spread: Positive | None = None
    """Standard deviation of a score in log-odds, a priori: see the family ``head``."""

    def __post_init__(self) -> None:
        """Refuse another rubric than a checklist, and weights that are there already."""
        if not isinstance(self.judge.ask, Checklist) or self.judge.ask.weights is not None:
            raise ValueError("judge.ask: a checklist without weights is what is learnt from")

    def taught(self, lesson: Lesson) -> Taught:
        """Return the judge with weights, in log-odds."""
        ask = self.judge.ask
        assert isinstance(ask, Checklist)
        chat = chat_of(self.judge)
        chat.to("cuda" if torch.cuda.is_available() else "cpu")
        components = scored(ChecklistJudge(chat, ask), lesson, "asking").components
        answers = log_odds(torch.stack([components[name] for name in ask.questions], 1))
        shown = lesson.data.shown(lesson.split.train)
        std = answers[shown].std(0, correction=0).clamp(min=1e-6)
        x = ((answers - answers[shown].mean(0)) / std).double()
        found = weighed(x, lesson, self.spread, len(ask.questions))
        worth, chosen = found.weights.float(), found.chosen
        weights = dict(zip(ask.questions, (worth / std).tolist(), strict=True))
        learnt = replace(self.judge, ask=replace(ask, weights=weights))
        assert isinstance(learnt.ask, Checklist)
        model = ChecklistJudge(chat, learnt.ask)

        def save(folder: Path) -> None:
            saved.write(folder, {}, {"format": FORMAT, "judge": configs.plain(learnt)}, model.reference)

        tastes = dict(zip(ask.questions, worth.tolist(), strict=True))
        told = {"spread": round(chosen.spread, 4), "temperature": round(chosen.temperature, 4), "folds": chosen.folds}
        return Taught(model, save, answers @ (worth / std), x.float(), chosen.spread, tastes, told)


def load(folder: str) -> ChecklistJudge:
    """Return the judge of a folder of ``train-reward``."""
    told = saved.described(Path(folder), FORMAT)
    with saved.damage_told(Path(folder)):
        config = configs.build(JudgeConfig, told["judge"], "judge")
        reference = torch.tensor(told["reference"], dtype=torch.float32)
        if not isinstance(config.ask, Checklist):
            raise ValueError("its rubric is no checklist")
        ask = config.ask
    judge = ChecklistJudge(chat_of(config), ask)
    judge.reference = reference
    return judge
