"""What a fine-tuning run is told: one frozen dataclass, whose fields are the keys of ``configs/*/finetune.yaml``."""

from dataclasses import dataclass, field
from typing import Literal, final

from .algorithms import NFT, AnyAlgorithm
from .changes import Fields
from .config import Count, Fraction, NonNegative
from .evaluator import EvaluationConfig
from .generators import GeneratorConfig
from .generators.lora import LoraConfig
from .policy import OptimizerConfig
from .prompt_statistics import StatisticsConfig
from .reward import RewardSpec

FIELDS = Fields(
    # What is learnt: another value would make the first half of the run and the second two different runs, and neither
    # this config nor any other would give these weights. The samples, the objective, the weights, and what the curve of
    # evaluations compares. `algorithm` stands for all of its hyperparameters, so that adding one needs no line here.
    frozen="""
        generator.path generator.steps generator.guidance generator.negative_prompt generator.embedded_guidance
        generator.height generator.width generator.dtype generator.call
        prompts reward seed prompts_per_step group_size updates_per_step
        algorithm advantage prompt_statistics.buffer prompt_statistics.min_count
        lora lora.rank lora.alpha lora.target_modules
        optimizer.betas optimizer.weight_decay average_decay
        evaluation.prompts evaluation.seed evaluation.seeds_per_prompt evaluation.kept_prompts evaluation.kept_seeds
    """,
    # What people turn while they look: how long, how fast, who judges. Also what changes rounding only, but enough that
    # a run would no longer repeat bit by bit.
    tracked="""
        steps optimizer.lr optimizer.max_grad_norm tolerated_failures
        evaluation.judges evaluation.deciding evaluation.final_seeds_per_prompt evaluation.other_guidance
        generator.compile generator.attention
    """,
    # Where and how it is computed, how often it is saved and looked at, and the folder's name: it may be moved.
    free="""
        out micro_size checkpoint_every evaluation.every trackers stop_on_alarm
        generator.prompt_cache generator.text_encoders generator.offload_vae generator.recompute_activations
    """,
)
"""What may change when a run continues."""


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Abstract: what every stage that tunes a generator is told."""

    generator: GeneratorConfig
    """The pipeline that is tuned, and how it is called."""
    out: str
    """Folder of the run."""
    evaluation: EvaluationConfig
    """What is looked at during the run and after it."""
    reward: RewardSpec
    """A folder written by `train-reward`, a name in the table of rewards, or ``module:attribute`` of your own; or a
    mapping of these to weights (each normalised, then summed), or a list of them (an ensemble: their mean)."""
    seed: NonNegative = 0
    """Of every random number of the training."""
    steps: Count = 100
    """Rounds of sampling and learning."""
    micro_size: Count = 8
    """Pictures or examples in one forward pass on one process."""
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """Adapters; null trains all weights."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    average_decay: Fraction = 0.0
    """Above 0, an exponential average of the weights over steps is what is evaluated and saved."""
    stop_on_alarm: bool = False
    """Whether the run stops, with exit code 6, at the evaluation that raises an alarm (docs/alarms.md)."""
    checkpoint_every: Count = 20
    """Steps between checkpoints. Ctrl-C and SIGTERM always make one."""
    trackers: tuple[str, ...] = ()
    """Where the metrics go besides `metrics.jsonl`, by accelerate's names: tensorboard (a folder ``trackers`` of the
    run), wandb, trackio …; some of them send what they are given away."""


@final
@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TuningConfig):
    """One run. The defaults are those of DiffusionNFT."""

    prompts: str | tuple[str, ...]
    """``digits``, a text file with one prompt a line, or a list."""
    prompts_per_step: Count = 48
    """P, over all processes."""
    group_size: Count = 24
    """K pictures of each prompt, compared with one another."""
    updates_per_step: Count = 1
    """Optimiser steps on each round's pictures; divides the group size, so that each sees a share of every group."""
    algorithm: AnyAlgorithm = field(default_factory=NFT)
    """Which objective, and its hyperparameters."""
    advantage: Literal["centred", "leave_one_out", "group_std", "global_std", "per_prompt"] = "global_std"
    """How a picture is compared: with its group, or (``per_prompt``) with the last scores of its prompt over steps."""
    prompt_statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    """What ``advantage: per_prompt`` remembers."""
    tolerated_failures: Fraction = 0.0
    """Share of a step's pictures whose reward may fail before the run stops; failed ones are masked, never scored 0."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not go together."""
        many = self.group_size > 1
        unit, units = ("group_size", self.group_size) if many else ("prompts_per_step", self.prompts_per_step)
        if units % self.updates_per_step:
            raise ValueError(f"updates_per_step {self.updates_per_step} does not divide {unit} {units}")
        if self.group_size < 2 and self.algorithm.within_groups:
            raise ValueError(f"{self.algorithm.name} compares the pictures of a group; use group_size 2 or more")
        if self.group_size < 2 and self.algorithm.compares and self.advantage != "per_prompt":
            raise ValueError(
                f"group_size 1 leaves nothing to compare a picture with (advantage {self.advantage});"
                " use 2 or more, or advantage: per_prompt"
            )
        self.algorithm.check(self.generator.steps)
