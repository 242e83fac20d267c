"""The folder of a trained reward: whatever happened to it, a line that says so, and never half a model."""

import shutil

import pytest

import reward_models
from rlhf_images.errors import BadInput

FOLDERS = ("trained", "trained_head")
"""Fixtures."""


def cut(folder):
    data = (folder / "reward.safetensors").read_bytes()
    (folder / "reward.safetensors").write_bytes(data[: len(data) // 2])


def flipped(folder):
    data = bytearray((folder / "reward.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "reward.safetensors").write_bytes(data)


def without_weights(folder):
    (folder / "reward.safetensors").unlink()


def half_told(folder):
    told = (folder / "reward.json").read_text()
    (folder / "reward.json").write_text(told[: len(told) // 2])


def of_something_else(folder):
    (folder / "reward.json").write_text('{"something": "else"}')


def no_mapping(folder):
    (folder / "reward.json").write_text("[]")


@pytest.mark.parametrize("damage", [cut, flipped, without_weights, half_told, of_something_else, no_mapping])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_damaged_is_told_in_one_line_with_the_next_step(request, tmp_path, name, damage):
    folder = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    reward_models.load(str(folder))
    damage(folder)
    with pytest.raises(BadInput, match=r"copy: damaged reward model .*train it again with 'train-reward'$") as refusal:
        reward_models.load(str(folder))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_family_is_not_taken_for_its_own(request, tmp_path, name):
    other = next(other for other in FOLDERS if other != name)
    folder = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    shutil.copy(request.getfixturevalue(other) / "reward.safetensors", folder / "reward.safetensors")
    with pytest.raises(BadInput, match=r"reward\.safetensors is not the one of reward\.json"):
        reward_models.load(str(folder))


def test_an_empty_folder_says_what_makes_a_model(tmp_path):
    with pytest.raises(BadInput, match=r"no reward model in it .*make one with 'train-reward'"):
        reward_models.load(str(tmp_path))
