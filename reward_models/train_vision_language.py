"""The family of vision-language models with a scalar head: how they learn. For a GPU, and thousands of votes."""

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_images.errors import BadInput
from rlhf_images.progress import progress

from .adapters import Adapters
from .family import Family, Lesson, Taught, scored
from .pair_training import PairTraining, learn
from .vision_language import Base, DTypes, VisionLanguage


@final
@dataclass(frozen=True)
class VisionLanguageConfig(Family):
    """A sequence classifier of transformers that takes pictures, with adapters: see `vision_language`."""

    base: str
    """A folder or a name on the hub; of a model whose ``…ForSequenceClassification`` takes pictures."""
    name: Literal["vision_language"] = "vision_language"
    text: str = 'This is a picture of "{prompt}". How good is it?'
    """What follows the picture; ``{prompt}`` stands for its prompt."""
    dtype: DTypes = "float32"
    """Of the base; adapters and head are in float32."""
    adapters: Adapters = field(default_factory=Adapters)
    """What learns, beside the head."""
    training: PairTraining = field(
        default_factory=lambda: PairTraining(
            steps=1000, batch=32, micro_size=2, lr=1e-4, warmup=50, weight_decay=0.0, every=25
        )
    )
    """How it learns."""

    def taught(self, lesson: Lesson) -> Taught:
        """Return a model that has learnt from the votes."""
        from . import trl_trainer as trl

        base = Base(self.base, self.dtype)
        network = base.adapted(self.adapters)
        network.to("cuda" if torch.cuda.is_available() else "cpu")
        model = VisionLanguage(base, network, self.adapters, self.text)
        for name, weight in network.named_parameters():
            weight.requires_grad_("lora_" in name or "modules_to_save" in name)
        padding = int(base.model.config.get_text_config().pad_token_id)
        for row in progress(range(len(lesson.data.ids)), "showing pictures"):
            _shown(model, lesson, row)  # one that cannot be shown is refused now, not after hours of learning

        def inputs(rows: Tensor) -> dict[str, Tensor]:
            return joined([_shown(model, lesson, row) for row in rows.tolist()], padding)

        def score(**shown: Tensor) -> Tensor:
            logits: Tensor = network(**shown).logits
            return logits[:, 0]

        open_weights = [weight for weight in network.parameters() if weight.requires_grad]
        scorer = trl.Scorer(network, score)
        ended = learn(
            scorer,
            inputs,
            lesson.data,
            lesson.split,
            self.training,
            lesson.seed,
            [{"params": open_weights}],
            "learning from votes",
        )
        network.eval().requires_grad_(False)
        told = {"kept_step": ended.step, "watched_nll": ended.nll, "watched_nll_before": ended.before}
        return Taught(model, model.save, scored(model, lesson, "scoring").mean, told=told)


def joined(parts: list[dict[str, Tensor]], padding: int) -> dict[str, Tensor]:
    """Return inputs as one batch. What has a number for each token is padded behind its end, where nobody looks."""
    length = max(part["input_ids"].shape[1] for part in parts)
    found = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if parts[0][name].shape == parts[0]["input_ids"].shape:
            fill = padding if name == "input_ids" else 0
            values = [pad(value, (0, length - value.shape[1]), value=fill) for value in values]
        found[name] = torch.cat(values)
    return found


def _shown(model: VisionLanguage, lesson: Lesson, row: int) -> dict[str, Tensor]:
    picture, prompt = lesson.data.ids[row], lesson.data.prompts[row]
    found = model.prepared(lesson.pairs.image(picture), prompt)
    if found is None:
        raise BadInput(f"picture {picture}: the model cannot be shown a picture of these proportions; leave it out")
    return found
