"""Which family for how many labels: each learns from 50, 150 and 240 of the demo's votes, and is asked about others.

python benchmarks/reward_families.py FOLDER [FAMILY …] [--pairs runs/demo/pairs] [--labels 50 150 240] [--splits 3]

prints a row for each family and number of labels. FOLDER keeps the bases: a CLIP of the demo's size and a Gemma 3 in
miniature, which both learn here which caption belongs to which real digit, before any vote. The same bases for all: the
head, the towers and the fine-tune of "CLIP" start from one CLIP. "true" is how often a model orders unseen pairs as the
scripted annotator would without its 10 % of errors. Settings are the families' own, but for learning rates and numbers
of steps, which are those of tests on other pictures: towers this small learn nothing at a large tower's.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path += [str(Path(__file__).parents[1] / "tests" / "reward_models")]

import tiny_vlms

import reward_models
import reward_models.architecture
from reward_models.adapters import Adapters
from reward_models.clip_preference import ClipPreference
from reward_models.comparisons import Comparisons, compared, split
from reward_models.extractors import ClipFeatures, FeaturesConfig
from reward_models.family import Family, Lesson
from reward_models.pair_training import PairTraining
from reward_models.preference import PreferenceModel
from reward_models.recognise import RecogniseConfig, recognise
from reward_models.towers import SMALL, TowersConfig
from reward_models.train_clip import ClipConfig
from reward_models.train_head import HeadConfig
from reward_models.train_vision_language import VisionLanguageConfig
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.preferences import Pairs
from rlhf_images.progress import progress, say
from rlhf_images.statistics import mean_estimate

HELD_OUT = 0.25
CAPTIONING, AT_ONCE = 400, 64
CLIP_LESSON = PairTraining(steps=150, batch=32, micro_size=32, lr=1e-3, warmup=15, validation=0.2, every=15)
VLM_LESSON = PairTraining(
    steps=90, batch=16, micro_size=16, lr=1e-2, warmup=9, weight_decay=0.0, validation=0.2, every=15
)


def clip_base(folder: Path) -> Path:
    """Return a folder with a CLIP that has seen captioned digits."""
    path = folder / "clip"
    if not (path / "reward.json").is_file():
        torch.manual_seed(0)
        model = PreferenceModel.new(SMALL)
        told = recognise(model, RecogniseConfig(), 0)
        say(f"the CLIP names {told.held_out_accuracy:.0%} of the digits that were kept from it")
        towers = reward_models.architecture.Towers(model.network.clip, model.architecture, model.preprocessing)
        ClipPreference(towers, None).save(path)
    return path


def vision_language_base(folder: Path) -> Path:
    """Return a folder with a Gemma 3 in miniature that has learnt to say a digit's caption."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path = folder / "gemma3"
    if not (path / "named.txt").is_file():
        tiny_vlms.gemma3(path)
        processor: Any = AutoProcessor.from_pretrained(path)
        model: Any = AutoModelForImageTextToText.from_pretrained(path)
        images, labels = digits(28)
        texts = processor(
            images=[[image] for image in images],
            text=[f"<start_of_image>{DIGIT_CAPTIONS[label]}<eos>" for label in labels],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            do_rescale=False,
        )
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        kept, seen = order[:200], order[200:]
        answers = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)
        answers[:, : int((texts["input_ids"][0] == model.config.image_token_index).nonzero().max()) + 2] = -100
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=CAPTIONING, pct_start=0.1)
        for step in progress(range(CAPTIONING), "learning to say captions"):
            rows = seen[torch.randint(len(seen), (AT_ONCE,), generator=torch.Generator().manual_seed(step))]
            model(**{name: value[rows] for name, value in texts.items()}, labels=answers[rows]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        named = _named(model, {name: value[kept] for name, value in texts.items()}, answers[kept], labels[kept])
        model.save_pretrained(path)
        (path / "named.txt").write_text(f"{named:.3f}\n", encoding="utf-8")
        say(f"the vision-language model names {named:.0%} of the digits that were kept from it")
    return path


@torch.no_grad()
def _named(model: Any, texts: dict[str, Tensor], answers: Tensor, labels: Tensor) -> float:
    """Return how often, of all ten captions, a digit's own is the likeliest after its picture."""
    first = [int((labels == digit).nonzero()[0, 0]) for digit in range(10)]
    chances = torch.zeros(len(labels), 10)
    for digit, row in enumerate(first):
        said = {name: texts[name][row].expand_as(texts[name]) for name in texts if name != "pixel_values"}
        logits = model(**said, pixel_values=texts["pixel_values"]).logits[:, :-1].log_softmax(-1)
        wanted = answers[row, 1:]
        at = (wanted != -100).nonzero()[:, 0]
        chances[:, digit] = logits[:, at, wanted[at]].sum(1)
    return float((chances.argmax(1) == labels).double().mean())


def families(folder: Path) -> dict[str, Callable[[], Family]]:
    """Return what is compared, by name; a base is made when it is first needed."""

    def local() -> str:
        return f"local-dir:{clip_base(folder)}"

    return {
        "head, statistics": HeadConfig,
        "head, CLIP": lambda: HeadConfig(
            features=FeaturesConfig(statistics=False, open_clip=ClipFeatures(str(clip_base(folder))))
        ),
        "head, both": lambda: HeadConfig(features=FeaturesConfig(open_clip=ClipFeatures(str(clip_base(folder))))),
        "towers": lambda: TowersConfig(local(), recognise=None),
        "clip": lambda: ClipConfig(architecture=local(), training=CLIP_LESSON),
        "clip, head": lambda: ClipConfig(architecture=local(), head_lr=0.01, training=CLIP_LESSON),
        "clip, adapters": lambda: ClipConfig(
            architecture=local(), adapters=Adapters(8, 16), head_lr=0.01, training=CLIP_LESSON
        ),
        "vision-language": lambda: VisionLanguageConfig(
            str(vision_language_base(folder)), adapters=Adapters(8, 16), training=VLM_LESSON
        ),
    }


def row(name: str, family: Family, pairs: Pairs, labels: int, splits: int) -> str:
    """Return a row of the table: ``family`` taught with ``labels`` votes, on so many divisions of the pairs."""
    labelled = pairs.labelled()
    data = compared(labelled)
    truth = _truth(pairs, data)
    voted: list[float] = []
    true: list[float] = []
    losses: list[float] = []
    begun = time.process_time()
    for seed in range(splits):
        division = split(labelled, HELD_OUT, seed)
        order = torch.randperm(len(division.train), generator=torch.Generator().manual_seed(seed))
        train = sorted(division.train[place] for place in order[:labels].tolist())
        torch.manual_seed(seed)
        taught = family.taught(Lesson(pairs, labelled, data, replace(division, train=train), seed))
        margin = (taught.score[data.left] - taught.score[data.right])[division.held_out].double()
        target = data.target[division.held_out].double()
        voted += ((margin > 0) == (target > 0.5)).double().tolist()
        true += ((margin > 0) == (truth[division.held_out] > 0)).double().tolist()
        losses += torch.nn.functional.binary_cross_entropy_with_logits(margin, target, reduction="none").tolist()
    spent = (time.process_time() - begun) / splits
    groups = [pair for seed in range(splits) for pair in split(labelled, HELD_OUT, seed).held_out]
    one, right = mean_estimate(np.array(voted), groups), mean_estimate(np.array(true), groups)
    accuracies = f"{right.value:.3f} ({right.low:.3f} to {right.high:.3f}) | {one.value:.3f}"
    return f"| {name} | {labels} | {accuracies} | {np.mean(losses):.3f} | {spent:.0f} |"


def _truth(pairs: Pairs, data: Comparisons) -> Tensor:
    """Return what the annotator would say without errors: the left score less the right one ``(P,)``."""
    taste = reward_models.load("bold")
    images = torch.stack([pairs.image(picture) for picture in data.ids])
    score = taste.score(images=images, prompts=data.prompts).mean
    return score[data.left] - score[data.right]


def main() -> None:
    """Run what is named; without a name all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("family", nargs="*")
    parser.add_argument("--pairs", default="runs/demo/pairs")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 150, 240])
    parser.add_argument("--splits", type=int, default=3)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    known = families(asked.folder)
    print("| family | labels | true accuracy, 95 % interval | accuracy on votes | log-loss | s of a processor |")
    print("|---|---|---|---|---|---|")
    for name in asked.family or known:
        for labels in asked.labels:
            print(row(name, known[name](), Pairs(asked.pairs), labels, asked.splits), flush=True)


if __name__ == "__main__":
    main()
