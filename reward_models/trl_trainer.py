"""TRL's RewardTrainer on pictures. Importing it takes many seconds, so a family does it when it must.

TRL's trainer is written for text but never looks at it: any model with ``.logits`` and ``config.num_labels == 1`` will
do, and a batch with the first of each pair before the second of each. Token ids are dummies.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState  # type: ignore[import-untyped,unused-ignore]
from datasets import Dataset  # type: ignore[import-untyped,unused-ignore]
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from rlhf_images.errors import NonFinite
from rlhf_images.progress import progress

from .comparisons import Comparisons


@final
class PicturePairs(RewardTrainer):
    """RewardTrainer with soft labels, weights and a penalty: what it has no option for."""

    def __init__(self, *, lesson: str, penalty: Callable[[Any], Tensor] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.lesson, self.penalty = lesson, penalty

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean of w · (-q log σ(d) - (1-q) log σ(-d)), d = score(left) - score(right), plus the penalty.

        The weights w have mean 1 over the pairs of the lesson.
        """
        del num_items_in_batch
        inputs = dict(inputs)
        target, weight = inputs.pop("target"), inputs.pop("weight")
        outputs = model(**inputs)
        left, right = outputs.logits.squeeze(-1).float().chunk(2)
        loss = binary_cross_entropy_with_logits(left - right, target, weight)
        if self.penalty is not None:
            loss = loss + self.penalty(self.accelerator.unwrap_model(model))
        if not torch.isfinite(loss):
            raise NonFinite(f"train-reward: the loss of '{self.lesson}' is {loss.item()}; lower its learning rates")
        return (loss, outputs) if return_outputs else loss

    def _send_telemetry(self) -> None:
        """Send nothing: who labels what is nobody else's business."""


@final
class Scorer(PreTrainedModel):  # type: ignore[no-untyped-call,unused-ignore]
    """A network that learns, as TRL wants to see it."""

    config_class = PreTrainedConfig

    def __init__(self, network: nn.Module, score: Callable[..., Tensor]) -> None:
        config = PreTrainedConfig()
        config.num_labels = 1
        super().__init__(config)
        self.network, self.score = network, score
        """What learns, and how it scores: named inputs of 2B pictures to scores ``(2B,)``."""

    def forward(self, inputs: Mapping[str, Tensor]) -> SequenceClassifierOutput:
        """Return the scores ``(2B, 1)``."""
        return SequenceClassifierOutput(logits=self.score(**inputs)[:, None])


@final
class Collator:
    """Looks pairs up: all left pictures, then all right ones."""

    def __init__(self, data: Comparisons, inputs: Callable[[Tensor], Mapping[str, Any]], weight: Tensor) -> None:
        self.data, self.weight = data, weight
        self.inputs = inputs
        """What the scorer takes, of the pictures of these numbers ``(2B,)``: the left ones, then the right ones."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the scorer's inputs for the pairs of ``rows``, with their targets."""
        pairs = torch.tensor([row["pair"] for row in rows])
        told = {"target": self.data.target[pairs], "weight": self.weight[pairs]}
        return {"inputs": self.inputs(torch.cat([self.data.left[pairs], self.data.right[pairs]])), **told}


@final
class Progress(TrainerCallback):
    """Our progress in place of the trainer's."""

    def __init__(self, steps: int, told: str = "learning from votes") -> None:
        self.bar: Iterator[int] = iter(progress(range(steps), told, steps))

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin with the first step."""
        next(self.bar)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count a step."""
        next(self.bar, None)


@final
class Watching(TrainerCallback):
    """Asks after every step, and before the first, whether to go on."""

    def __init__(self, look: Callable[[int], bool]) -> None:
        self.look = look

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Look at what there is before the first step."""
        self.look(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look after a step."""
        del args
        if not self.look(state.global_step):
            control.should_training_stop = True


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Let a trainer choose device and precision for itself: accelerate keeps both for the whole process, for ever."""
    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)


def dummies(pairs: list[int]) -> Dataset:
    """Return the data set that TRL asks for: a pair's number, and token ids that stand for nothing."""
    none = [[0]] * len(pairs)
    return Dataset.from_dict({"pair": pairs, "chosen_ids": none, "rejected_ids": none})


def vocabulary() -> PreTrainedTokenizerFast:
    """Return the smallest tokenizer that TRL accepts."""
    words = Tokenizer(models.WordLevel({"-": 0}, "-"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="-")  # type: ignore[no-untyped-call,unused-ignore]


def arguments(folder: str, *, seed: int, batch: int, lr: float, **schedule: Any) -> RewardConfig:
    """Return TRL's arguments, with the defaults that would hurt here turned off: bf16, checkpointing, reports.

    ``schedule`` is whatever says how long: ``num_train_epochs``, or ``max_steps``, and ``warmup_steps``.
    """
    config = RewardConfig(
        output_dir=folder,
        seed=seed,
        per_device_train_batch_size=batch,
        learning_rate=lr,
        lr_scheduler_type="cosine",
        bf16=False,
        gradient_checkpointing=None,  # type: ignore[arg-type,unused-ignore]  # False warns: the name is deprecated
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **schedule,
    )
    if config.n_gpu > 1:
        config._n_gpu = 1  # this stage is one process on one device; several would be wrapped in nn.DataParallel
    return config
