"""Evaluation: fixed prompts × fixed seeds, scored by the trained reward and by judges that nothing was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from .config import Count, NonNegative, Several
from .errors import BadInput, NonFinite
from .generators import Generator
from .processes import Processes
from .progress import say
from .prompts import read_prompts
from .randomness import Randomness
from .reward import Reward, Scores
from .sampling import Rollout, sample
from .scoring import gathered_scores
from .statistics import diversity
from .track import keep_evidence


@final
@dataclass(frozen=True)
class EvaluationConfig:
    """What is drawn for an evaluation and who judges it."""

    prompts: str | tuple[str, ...]
    """Held out from training where the task allows; the seeds always are."""
    seed: NonNegative = 1000
    """Of the evaluation's own random numbers, apart from training's."""
    seeds_per_prompt: Several = 4
    """Pictures of each prompt in the evaluations during training."""
    every: Count = 20
    """Training steps between them; step 0 and the last are always evaluated."""
    final_seeds_per_prompt: Several = 24
    """Pictures of each prompt when `evaluate` compares base and tuned."""
    kept_prompts: Count = 64
    """Prompts whose pictures stay on disk from every evaluation, evenly chosen; all scores stay."""
    kept_seeds: Count = 4
    """Pictures that stay of each of them."""
    judges: dict[str, str] = field(default_factory=dict)
    """Name → reward (a name in the table, a folder, or module:attribute) that training never sees."""
    other_guidance: float | None = None
    """`evaluate` also draws at this guidance, with and without which both ways are told; the tuned may not need it."""
    deciding: str = "reward"
    """The judge whose preference is counted as a win; ``reward``, the trained one, only where there is no other."""


@final
@dataclass(frozen=True)
class Evaluation:
    """``images (N, 3, H, W)`` of ``prompts``, the index of each one's random numbers, ``scores (N,)`` by judge."""

    prompts: list[str]
    index: list[int]
    images: Tensor
    scores: dict[str, Tensor]
    stds: dict[str, Tensor] = field(default_factory=dict)
    """Of the judges that know how unsure they are, ``(N,)`` each."""
    features: Tensor | None = None
    """What the judge ``features_by`` sees in the pictures, ``(N, D)``; None where no judge has such a space."""
    features_by: str | None = None
    highest_labelled: float | None = None
    """The trained reward's highest score of a picture that somebody labelled; None where it knows none."""

    @property
    def diversity(self) -> float:
        """Return the diversity within prompts (see `statistics.diversity`)."""
        return diversity(self.images, self.prompts)

    def means(self) -> dict[str, float]:
        """Return the mean score of each judge, and the diversity. A failed score (NaN) is left out of its mean."""
        means = {name: float(scores.nanmean()) for name, scores in self.scores.items()}
        return {**means, "diversity": self.diversity}


@final
@dataclass(frozen=True)
class Drawn:
    """The pictures of this process, and the prompts and groups (of one prompt each) of all N pictures."""

    rollout: Rollout
    prompts: list[str]
    groups: list[int]


@final
class Evaluator:
    """Draws and judges the same pictures again and again, with whatever weights the generator has at the time."""

    def __init__(
        self,
        config: EvaluationConfig,
        judges: Mapping[str, Reward],
        processes: Processes,
        micro_size: int,
        refused: Path | None = None,
    ) -> None:
        """Take the ``judges`` by name; pictures that are not finite are kept in the folder ``refused``.

        Raises `BadInput` where none of the judges is the deciding one.
        """
        if config.deciding not in judges:
            raise BadInput(f"evaluation.deciding: no judge '{config.deciding}'; there are {', '.join(judges)}")
        self.refused = refused
        self.config, self.judges, self.processes, self.micro_size = config, judges, processes, micro_size
        self.prompts = read_prompts(config.prompts)

    def evaluate(self, generator: Generator, seeds_per_prompt: int) -> Evaluation:
        """Return the evaluation of ``generator``, complete on every process."""
        drawn = self.draw(generator, seeds_per_prompt)
        judged, total = {name: self.judged(judge, drawn) for name, judge in self.judges.items()}, len(drawn.prompts)
        for name, found in judged.items():
            failed = int(torch.isnan(found.mean).sum())
            if failed:
                say(f"evaluation: '{name}' failed on {failed} of {total} pictures, which its mean leaves out")
        features, by = self._features(drawn)
        return Evaluation(
            drawn.prompts,
            list(range(total)),
            self.processes.shared(drawn.rollout.images, drawn.rollout.index, total),
            {name: found.mean for name, found in judged.items()},
            {name: found.std for name, found in judged.items() if found.std is not None},
            features,
            by,
            self._highest_labelled(),
        )

    def draw(self, generator: Generator, seeds_per_prompt: int) -> Drawn:
        """Return this process's share of the pictures: all prompts from the first seed, then all from the second.

        A row's number is that of its noise, so that fewer seeds are the first rows of more.
        """
        prompts = [prompt for _ in range(seeds_per_prompt) for prompt in self.prompts]
        if len(prompts) < self.processes.count:
            raise BadInput(f"evaluation: {len(prompts)} pictures are fewer than the {self.processes.count} processes")
        index = list(self.processes.mine(len(prompts)))
        mine = [prompts[i] for i in index]
        rollout = sample(generator, mine, index, Randomness(self.config.seed), self.micro_size, purpose="evaluation")
        if self.processes.any(not bool(torch.isfinite(rollout.images).all())):
            kept = ""
            if self.refused is not None:
                keep_evidence(self.refused, "evaluation", rollout, self.processes.rank)
                kept = f" They are in {self.refused}"
            raise NonFinite(f"the pictures of an evaluation are not finite; try generator.dtype: float32.{kept}")
        return Drawn(rollout, prompts, [row % len(self.prompts) for row in range(len(prompts))])

    def scores(self, judge: Reward, drawn: Drawn) -> Tensor:
        """Return the scores ``(N,)`` of all pictures on every process, NaN where the judge failed."""
        return self.judged(judge, drawn).mean

    def judged(self, judge: Reward, drawn: Drawn) -> Scores:
        """Return what ``judge`` says of all pictures, on every process."""
        rollout, micro = drawn.rollout, self.micro_size
        return gathered_scores(judge, rollout.images, rollout.index, drawn.prompts, drawn.groups, self.processes, micro)

    def _highest_labelled(self) -> float | None:
        reward = self.judges.get("reward")
        return float(reward.reference.max()) if reward is not None and len(reward.reference) else None

    def _features(self, drawn: Drawn) -> tuple[Tensor | None, str | None]:
        """Return what one judge sees in the pictures, on every process: a held-out one if any sees, else the reward."""
        images, index = drawn.rollout.images, drawn.rollout.index
        for name, judge in sorted(self.judges.items(), key=lambda item: item[0] == "reward"):
            with torch.no_grad():
                parts = [judge.features(part) for part in images.split(self.micro_size)]
            seen = [part.float() for part in parts if part is not None]
            if seen:
                return self.processes.shared(torch.cat(seen), index, len(drawn.prompts)), name
        return None, None
