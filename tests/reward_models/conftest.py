import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import max_pool2d

import reward_models
from reward_models.architecture import built
from reward_models.bradley_terry import BradleyTerryConfig
from reward_models.recognise import RecogniseConfig
from reward_models.towers import TowersConfig
from reward_models.train import TrainRewardConfig, train_reward
from reward_models.train_head import HeadConfig
from rlhf_images.data import DIGIT_CAPTIONS, digits, encode
from rlhf_images.generators.tiny import TinyConfig, build
from rlhf_images.preferences import Event
from rlhf_images.preferences.pairs import Pairs, Picture, PreferencePair, picture_id

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8, "pool_type": "avg"},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def bolder(images: torch.Tensor, by: float) -> torch.Tensor:
    """Mix in strokes a pixel wider on each side."""
    return (1 - by) * images + by * max_pool2d(images, 3, 1, 1)


def write_pairs(folder: Path, count: int, vote: bool = True) -> Pairs:
    """Two pictures of a digit, one with bolder strokes, voted on by `bold` without noise."""
    images, labels = digits(16)
    rows = [(labels == i % 10).nonzero()[i // 10 : i // 10 + 2, 0] for i in range(count)]
    amounts = 0.6 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    pictures, pairs = [], []
    for number, (two, by) in enumerate(zip(rows, amounts.tolist(), strict=True)):
        prompt = DIGIT_CAPTIONS[number % 10]
        data = [encode(bolder(images[row][None], amount)[0]) for row, amount in zip(two, by, strict=True)]
        ids = [picture_id(png) for png in data]
        pictures += [(data[side], Picture(ids[side], prompt, 0, 2 * number + side, {})) for side in (0, 1)]
        pairs.append(PreferencePair(f"pair{number:03d}", prompt, *ids))
    made = Pairs.create(folder, pictures, pairs)
    if vote:
        left, right, prompts = next(made.batches(pairs, count))
        taste = reward_models.load("bold")
        margin = taste.score(images=left, prompts=prompts).mean - taste.score(images=right, prompts=prompts).mean
        made.store.add(
            [
                Event(str(uuid.uuid4()), "vote", pair.pair, "script", "left" if by > 0 else "right")
                for pair, by in zip(pairs, margin, strict=True)
            ]
        )
        (folder / "labels").mkdir()
        (folder / "labels" / "script.json").write_text(
            json.dumps({"annotator": "script", "noise": 0.1, "ceiling": 0.9})
        )
    return made


def head_config(pairs: Path, out: Path, **changes) -> TrainRewardConfig:
    return TrainRewardConfig(str(pairs), str(out), model=HeadConfig(**changes))


def config(pairs: Path, out: Path, **changes) -> TrainRewardConfig:
    lessons = {
        "recognise": RecogniseConfig(steps=20, batch=32),
        "bradley_terry": BradleyTerryConfig(epochs=20, batch=16),
    }
    return TrainRewardConfig(str(pairs), str(out), model=TowersConfig(architecture=TINY, **(lessons | changes)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from a second thread, and wait for it where another process has the other core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def votes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, 160)
    return folder


@pytest.fixture(scope="session")
def trained(votes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "reward"
    with one_thread():
        train_reward(config(votes, folder))
    return folder


@pytest.fixture(scope="session")
def trained_head(votes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained_head") / "reward"
    with one_thread():
        train_reward(head_config(votes, folder))
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> str:
    """A CLIP with random weights, in open_clip's layout."""
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(built(TINY).state_dict(), folder / "open_clip_model.safetensors")
    described = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory) -> str:
    """A Stable Diffusion 3 pipeline with random weights, for pictures of 16 pixels."""
    folder = tmp_path_factory.mktemp("generator") / "pipeline"
    sizes = TinyConfig(layers=2, heads=1, channels=(8, 8), text_width=16, text_tokens=6)
    build(sizes, 16, list(DIGIT_CAPTIONS), 0).save_pretrained(folder)
    return str(folder)
