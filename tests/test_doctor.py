"""The doctor finds what was planted, and nothing in a healthy run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_models import load as load_reward
from rlhf_images import doctor as doctors
from rlhf_images.cli import run as command
from rlhf_images.config import build
from rlhf_images.doctor import CHECKS, doctor
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.generators.tiny import build as build_pipeline

PROMPTS = ["a handwritten one", "a handwritten two", "a red six"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    pipe = build_pipeline(TinyConfig(layers=1, heads=1, channels=(8, 16), text_tokens=6), 16, PROMPTS, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(pipe.transformer.parameters()):
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def config(generator, tmp_path):
    return {
        "generator": {"path": str(generator), "steps": 3, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "reward": "rewards_for_tests:brightness",
        "out": str(tmp_path / "run"),
        "prompts_per_step": 3,
        "group_size": 4,
        "micro_size": 4,
        "algorithm": {"name": "grpo", "kl_weight": 0.1},
        "lora": {"rank": 2, "alpha": 4},
        "evaluation": {"prompts": PROMPTS},
    }


def ill(config, only=None):
    """The names of the checks that fail; ``only`` those that are asked for, and loading, are made."""
    wanted = CHECKS if only is None else tuple(check for check in CHECKS if check[0] == only)
    assert wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctors, "CHECKS", wanted)
        findings = doctor(build(FinetuneConfig, config, "test"), load_reward, lambda finding: None)
    for finding in findings:
        assert finding.well or finding.next_step, finding
        assert "could not be tried" not in finding.seen, finding
        assert "\n" not in finding.line
    return {finding.name: finding for finding in findings if not finding.well}


@pytest.mark.parametrize(
    ("algorithm", "lora", "reward"),
    [
        ("grpo", {"rank": 2, "alpha": 4}, "brightness"),
        ("nft", None, "brightness"),
        ("draft", {"rank": 2, "alpha": 4}, "Light"),
    ],
)
def test_a_healthy_run_passes_every_check(config, algorithm, lora, reward, tmp_path):
    config |= {"algorithm": {"name": algorithm}, "lora": lora, "reward": f"rewards_for_tests:{reward}"}
    assert ill(config) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("reward: sees [0, 1]", {"reward": "rewards_for_tests:whole_levels"}),
        ("reward: sees RGB", {"reward": "rewards_for_tests:colour_blind"}),
        ("reward: same twice", {"reward": "rewards_for_tests:moody"}),
        ("reward: alone and in company", {"reward": "rewards_for_tests:gregarious"}),
        ("reward: answers", {"reward": "rewards_for_tests:constant"}),
        ("reward: answers", {"reward": "rewards_for_tests:broken"}),
        ("prompts", {"prompts": [" ".join(["word"] * 400), "fog"]}),
        ("loading", {"lora": {"target_modules": ["to_nothing"]}}),
        ("loading", {"reward": "no_such_reward"}),
        ("loading", {"prompts": "no/such/file.txt"}),
    ],
)
def test_planted_in_the_config(config, check, changes):
    assert check in ill({**config, **changes}, None if check == "loading" else check)


def spoilt(generator, folder, change):
    shutil.copytree(generator, folder)
    change(folder)
    return str(folder)


def with_generator(config, path, **settings):
    return {**config, "generator": {**config["generator"], "path": path, **settings}}


def test_a_schedule_that_runs_from_clean_to_noise(config, generator, tmp_path):
    def inverted(folder):
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "invert_sigmas": True}))

    path = spoilt(generator, tmp_path / "spoilt", inverted)
    assert "schedule" in ill(with_generator(config, path), "schedule")


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_that_are_not_finite(config, generator, tmp_path, part):
    def poisoned(folder):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        save_file({name: torch.full_like(value, torch.nan) for name, value in weights.items()}, file)

    path = spoilt(generator, tmp_path / "spoilt", poisoned)
    assert "loading" in ill(with_generator(config, path), "pictures")


def test_an_autoencoder_that_draws_one_colour(config, generator, tmp_path):
    def emptied(folder):
        file = folder / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({name: torch.zeros_like(value) for name, value in load_file(file).items()}, file)

    path = spoilt(generator, tmp_path / "spoilt", emptied)
    assert "one plain colour" in ill(with_generator(config, path), "pictures")["pictures"].seen


def test_a_type_in_which_sampling_and_training_disagree(config, generator):
    assert "ratio" in ill(with_generator(config, str(generator), dtype="bfloat16"), "ratio")


def test_a_full_disk_and_one_that_cannot_be_written(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in ill({**config, "out": str(tmp_path / "file" / "run")}, "disk")["disk"].seen
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "make room" in ill(config, "disk")["disk"].next_step


def test_a_card_that_is_too_small(config, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 1000})())
    assert "memory" in ill(config, "memory")


def test_the_command_says_a_line_a_check_and_ends_with_2_if_one_fails(config, tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**config, "reward": "rewards_for_tests:moody"}))
    assert command(["doctor", str(file)]) == 2
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1 + len(CHECKS)
    assert "FAIL  reward: same twice" in told.out
    assert "next: " in told.out
    assert "2 of 16 checks failed: reward: same twice, reward: alone and in company" in told.err
    assert not (tmp_path / "run").exists()
