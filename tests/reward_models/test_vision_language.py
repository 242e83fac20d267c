"""A vision-language model with one score: what learns, what stays, and what its folder is worth without its base."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_vlms
import torch
from conftest import one_thread, write_pairs
from safetensors.torch import load_file, save_file

import reward_models
from reward_models.adapters import Adapters
from reward_models.comparisons import Split, compared, split
from reward_models.family import Lesson
from reward_models.pair_training import PairTraining
from reward_models.train import TrainRewardConfig, train_reward
from reward_models.train_vision_language import VisionLanguageConfig, joined
from reward_models.vision_language import WEIGHTS, Base, VisionLanguage
from rlhf_images import config as configs
from rlhf_images.data import encode
from rlhf_images.errors import BadInput
from rlhf_images.preferences import Pairs, Picture, PreferencePair
from rlhf_images.preferences.pairs import Counts, picture_id

BRISK = PairTraining(steps=24, batch=8, micro_size=4, lr=1e-2, warmup=2, weight_decay=0.0, validation=0.2, every=8)


@pytest.fixture(scope="session")
def vlm_votes(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("vlm_votes"), 60).folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(f"base_{name}")) for name, write in tiny_vlms.VLMS.items()}


@pytest.fixture(scope="session")
def vlm_folder(bases, vlm_votes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("vlm") / "reward"
    model = VisionLanguageConfig(str(bases["gemma3"]), adapters=Adapters(4, 8), training=BRISK)
    with one_thread():
        train_reward(TrainRewardConfig(str(vlm_votes), str(out), model=model, probed=0))
    return out


def test_learns_the_taste(vlm_folder):
    card = json.loads((vlm_folder / "card.json").read_text())
    assert card["held_out_accuracy"] >= 0.75
    assert card["told"]["watched_nll"] < 0.9 * card["told"]["watched_nll_before"]
    assert card["alarms"] == []


def test_the_folder_is_small_and_gives_the_same_scores(vlm_folder, bases, vlm_votes):
    state = load_file(vlm_folder / WEIGHTS)
    assert all("lora_" in name or "score" in name for name in state)
    assert state["base_model.model.score.weight"].shape == (1, 32)
    model = reward_models.load(str(vlm_folder))
    assert isinstance(model, VisionLanguage)
    pairs = Pairs(vlm_votes)
    images = torch.stack([pairs.image(picture) for pair in pairs.pairs for picture in (pair.left, pair.right)])
    scores = model.score(images=images, prompts=[pair.prompt for pair in pairs.pairs for _ in range(2)]).mean
    assert model.preferred(model.reference).mean() == pytest.approx(0.5, abs=1e-5)
    assert model.reference.min() - 1e-4 <= scores.quantile(0.5) <= model.reference.max() + 1e-4
    labelled = split(pairs.labelled(), 0.25, 0)
    shown = torch.tensor([2 * pair + side for pair in labelled.train for side in (0, 1)])
    torch.testing.assert_close(scores[shown].sort().values[[0, -1]], model.reference[[0, -1]], rtol=1e-4, atol=1e-4)
    assert model.id == reward_models.load(str(vlm_folder)).id


def damage_weights(folder, base):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def damage_description(folder, base):
    (folder / "reward.json").write_text((folder / "reward.json").read_text()[:-30])


def damage_base(folder, base):
    """Somebody fine-tuned the base in its place."""
    state = load_file(base / "model.safetensors")
    name = next(name for name in state if name.endswith("q_proj.weight"))
    state[name] = state[name] + 0.001
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})


def damage_gone(folder, base):
    shutil.rmtree(base)


@pytest.mark.parametrize("damage", [value for name, value in dict(globals()).items() if name.startswith("damage_")])
def test_a_damaged_folder_or_another_base_is_refused_in_one_line(vlm_folder, bases, tmp_path, damage):
    folder, base = shutil.copytree(vlm_folder, tmp_path / "copy"), shutil.copytree(bases["gemma3"], tmp_path / "base")
    told = json.loads((folder / "reward.json").read_text())
    (folder / "reward.json").write_text(json.dumps({**told, "base": str(base)}))
    reward_models.load(str(folder))
    damage(folder, base)
    with pytest.raises(BadInput) as refusal:
        reward_models.load(str(folder))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", tiny_vlms.VLMS)
def test_only_adapters_and_head_learn_and_padding_changes_nothing(bases, vlm_votes, name):
    """Both families; a step of pairs whose prompts have different lengths."""
    pairs = Pairs(vlm_votes)
    labelled = pairs.labelled()
    lesson = Lesson(pairs, labelled, compared(labelled), split(labelled, 0.25, 0), 0)
    torch.manual_seed(0)
    before = Base(str(bases[name]), "float32")
    config = VisionLanguageConfig(
        str(bases[name]),
        adapters=Adapters(2, 4),
        training=dataclasses.replace(BRISK, steps=2, batch=4, micro_size=2, validation=0.0),
    )
    taught = config.taught(lesson)
    model = taught.model
    assert model.base.hash == before.hash
    state = {key: value for key, value in model.model.named_parameters() if "lora_" not in key and "score" not in key}
    start = dict(before.model.named_parameters())
    for key, value in state.items():
        plain = key.removeprefix("base_model.model.").replace(".base_layer", "")
        assert torch.equal(value, start[plain]), key
    assert any(value.any() for key, value in model.model.named_parameters() if "lora_B" in key)
    images, prompts = torch.rand(2, 3, 20, 24), ["one", "a much longer prompt than the other one has"]
    parts = [model.prepared(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    assert parts[0]["input_ids"].shape != parts[1]["input_ids"].shape
    padding = model.base.model.config.get_text_config().pad_token_id
    with torch.no_grad():
        together = model.model(**joined(parts, padding)).logits[:, 0]
    torch.testing.assert_close(together, model.score(images=images, prompts=prompts).mean, rtol=1e-4, atol=1e-5)
    assert len(taught.score) == len(lesson.data.ids)


def test_a_held_out_picture_that_cannot_be_shown_is_refused_before_the_lesson(bases, tmp_path):
    """Qwen's processor takes nothing more than 200 times as wide as high; found out at the end, hours would be lost."""
    images = [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    data = [encode(image) for image in (*images, torch.rand(3, 1, 400))]
    ids = [picture_id(png) for png in data]
    known = [(png, Picture(name, "a", 0, i, {})) for i, (png, name) in enumerate(zip(data, ids, strict=True))]
    rows = [PreferencePair(f"{i}", "a", ids[2 * i], ids[2 * i + 1], counts=Counts(left=1.0)) for i in range(3)]
    pairs = Pairs.create(tmp_path / "pairs", known, rows)
    labelled = pairs.labelled()
    division = Split("picture", [0, 1], [2], np.arange(3), "")
    config = VisionLanguageConfig(str(bases["qwen3_5"]), adapters=Adapters(2, 4), training=BRISK)
    with pytest.raises(BadInput, match="cannot be shown a picture of these proportions"):
        config.taught(Lesson(pairs, labelled, compared(labelled), division, 0))


def test_a_base_in_half_precision_learns_in_full(bases, vlm_votes):
    torch.manual_seed(0)
    base = Base(str(bases["gemma3"]), "bfloat16")
    network = base.adapted(Adapters(2, 4))
    learnt = {
        weight.dtype for name, weight in network.named_parameters() if "lora_" in name or "modules_to_save" in name
    }
    assert learnt == {torch.float32}
    model = VisionLanguage(base, network, Adapters(2, 4), "x {prompt}")
    scores = model.score(images=torch.rand(2, 3, 20, 20), prompts=["a", "b"])
    assert scores.mean.dtype == torch.float32
    assert scores.valid.all()


def test_a_model_without_eyes_is_refused(bases, tmp_path):
    folder = shutil.copytree(bases["gemma3"], tmp_path / "text")
    described = json.loads((folder / "config.json").read_text())
    text = described["text_config"] | {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(text))
    with pytest.raises(BadInput, match=r"takes no pictures|no sequence classifier"):
        Base(str(folder), "float32")
    with pytest.raises(BadInput, match="no sequence classifier"):
        Base(str(tmp_path / "nowhere"), "float32")


def test_the_shipped_config_is_valid():
    shipped = configs.load(TrainRewardConfig, "vision_language/reward.yaml")
    assert isinstance(shipped.model, VisionLanguageConfig)
    assert shipped.model.training == VisionLanguageConfig("x").training
