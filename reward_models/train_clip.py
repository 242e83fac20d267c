"""The family of fine-tuned CLIPs: how they learn. For thousands of votes, and a GPU where the towers are large."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from rlhf_images.config import Count, Fraction, Weight
from rlhf_images.errors import BadInput
from rlhf_images.progress import progress

from .adapters import Adapters
from .architecture import new_towers, tokens
from .clip import Clip
from .clip_preference import ClipPreference, Network
from .comparisons import in_unit, pictures
from .family import Family, Lesson, Taught
from .pair_training import Ended, PairTraining, averaged, learn
from .towers import suited_threads


@final
@dataclass(frozen=True)
class ClipConfig(Family):
    """An open_clip whose towers learn from the votes: PickScore's and HPSv2's way."""

    name: Literal["clip"] = "clip"
    architecture: dict[str, Any] | str = "local-dir:models/clip"
    """``local-dir:`` and a folder of weights; or, with random weights, one in open_clip's own words or by its name."""
    open_image: Fraction = 0.6
    """Share of the image tower's groups of layers that learn, from the last one back."""
    open_text: Fraction = 0.45
    """The same of the text tower."""
    adapters: Adapters | None = None
    """Learn these beside every layer of both towers and leave the layers alone, then merge them: for fewer votes."""
    head_lr: Weight = 0.0
    """Peak learning rate of a linear head on the picture's embedding; 0 is no head."""
    training: PairTraining = field(default_factory=PairTraining)
    """How it learns."""
    runs: Count = 1
    """Runs in other orders, on other watched parts, whose weights are averaged."""

    def taught(self, lesson: Lesson) -> Taught:
        """Return a CLIP that has learnt from the votes: the average of its runs."""
        towers = new_towers(self.architecture)
        clip = Clip(towers)
        network = Network(clip.model, self.head_lr > 0, int(towers.architecture["embed_dim"]))
        network.to("cuda" if torch.cuda.is_available() else "cpu")
        size = clip.preprocessing.size
        seen = pictures(lesson.pairs, lesson.data, lambda image: clip.fit(image, size), size)
        with suited_threads(network.clip.visual):

            def run(number: int) -> Ended:
                return self._run(network, clip, seen, lesson, lesson.seed + number)

            ended = averaged(network, run, self.runs)
            network.eval().requires_grad_(False)
            model = ClipPreference(towers, None if network.head is None else network.head.detach().clone())
            score = _scored(model, seen, lesson.data.prompts)
        told = {
            "kept_steps": [one.step for one in ended],
            "watched_nll": [one.nll for one in ended],
            "watched_nll_before": ended[0].before,
        }
        return Taught(model, model.save, score, told=told)

    def _run(self, network: Network, clip: Clip, seen: Tensor, lesson: Lesson, seed: int) -> Ended:
        """Let ``network`` learn once from the pictures ``seen (N, 3, S, S)``; what adapters learnt is merged."""
        from . import trl_trainer as trl

        torch.manual_seed(seed)
        texts = tokens(lesson.data.prompts, clip.architecture)
        plain = network.clip
        self._open(network)

        def inputs(rows: Tensor) -> dict[str, Tensor]:
            pixels = clip.preprocessing.normalised(in_unit(seen[rows]))
            return {"pixels": pixels, "tokens": texts[rows[: len(rows) // 2]]}

        groups = decayed(w for name, w in network.named_parameters() if w.requires_grad and name != "head")
        if network.head is not None:
            groups.append({"params": [network.head], "lr": self.head_lr, "weight_decay": 0.0})
        ended = learn(
            trl.Scorer(network, network.forward),
            inputs,
            lesson.data,
            lesson.split,
            self.training,
            seed,
            groups,
            "learning from votes",
        )
        if self.adapters:
            network.clip.merge_and_unload()
            network.clip = plain
        return ended

    def _open(self, network: Network) -> None:
        """Let learn what shall learn."""
        network.requires_grad_(False)
        if network.head is not None:
            network.head.requires_grad_(True)
        if self.adapters:
            network.clip = adapted(network.clip, self.adapters)
        else:
            open_towers(network.clip, self.open_image, self.open_text)
        if not any(weight.requires_grad for weight in network.parameters()):
            raise BadInput("model: nothing of it learns; raise open_image, open_text or head_lr, or give it adapters")


def decayed(weights: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return ``weights`` as an optimiser wants them: gains, biases and the scale do not decay, as in open_clip."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for weight in weights:
        (matrices if weight.ndim >= 2 else others).append(weight)
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def open_towers(clip: Any, image: float, text: float) -> None:
    """Open the last ``image`` of the image tower's groups and ``text`` of the text tower's, and the scale with them.

    The groups are open_clip's: the stem, each block, and the projection.
    """
    text_tower = getattr(clip, "text", clip)
    text_parts = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    towers: dict[str, tuple[float, Any, list[Any], Any]] = {
        "image": (image, clip.visual, [clip.visual], clip.visual.lock),
        "text": (text, text_tower, [getattr(text_tower, part) for part in text_parts], clip.lock_text_tower),
    }
    for name, (share, tower, parts, lock) in towers.items():
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
        if share in (0, 1):
            for part in parts:
                part.requires_grad_(share == 1)
        elif blocks is None:
            raise BadInput(f"model.open_{name}: this tower is not open_clip's own transformer; take 0 or 1")
        else:
            lock(round(share * (len(blocks) + 2)))
    clip.logit_scale.requires_grad_(image > 0 or text > 0)


def adapted(clip: nn.Module, adapters: Adapters) -> Any:
    """Return ``clip`` with adapters on every attention and every perceptron of both towers."""
    from peft import LoraConfig, get_peft_model

    names = [n for n, m in clip.named_modules() if isinstance(m, nn.MultiheadAttention)]
    names += [n for n, m in clip.named_modules() if isinstance(m, nn.Linear) and n.endswith(("c_fc", "c_proj"))]
    if not names:
        raise BadInput("model.adapters: these towers are not open_clip's own transformers; leave adapters out")
    return get_peft_model(clip, LoraConfig(r=adapters.rank, lora_alpha=adapters.alpha, target_modules=names))


@torch.no_grad()
def _scored(model: ClipPreference, seen: Tensor, prompts: list[str]) -> Tensor:
    """Return the score ``(N,)`` of every picture, as bytes ``(N, 3, S, S)``."""
    found = []
    for start in progress(range(0, len(prompts), 64), "scoring"):
        images = in_unit(seen[start : start + 64])
        found.append(model.score(images=images, prompts=prompts[start : start + 64]).mean.cpu())
    return torch.cat(found)
