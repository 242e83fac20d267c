"""Checkpoints that a crash cannot spoil: staged, synced, hashed, the manifest last, renamed; old ones go then.

    <folder>/step_00000020/
      tensors.safetensors   every tensor, by name
      state.json            everything else
      manifest.json         SHA-256 of both: without it, or with another hash, the folder is no checkpoint

Nothing is removed before what replaces it is on disk under its name: not even a damaged checkpoint of the same step.
No pickle anywhere: an optimiser's state is tensors and numbers, and is kept as such.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import digest, disk_errors, sync_folder, write_atomically, write_json
from .progress import say

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
KEPT = 2
"""How many checkpoints stay."""


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of ``step`` finished steps and return its folder. What was there stays until it stands.

    The tensors go to the file as they are, without a copy of them all in memory. Raises `OSError` where they cannot.
    """
    staged = folder / f".staged_{step:08d}.{os.getpid()}"
    for left_by_a_crash in folder.glob(".staged_*"):
        shutil.rmtree(left_by_a_crash, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        _write_tensors(staged / TENSORS, tensors)
        write_atomically(staged / STATE, json.dumps({**state, "step": step}, allow_nan=False).encode())
        write_json(staged / MANIFEST, {name: digest(staged / name) for name in (TENSORS, STATE)})
        final = _free_name(folder, step)
        staged.replace(final)
        sync_folder(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    others = sorted(path for path in folder.glob("step_*") if path != final)
    older = [path for path in others if path.name < _name(step)]  # newer ones, and this step's, could not be loaded
    for path in others:
        if path not in older[1 - KEPT :]:
            shutil.rmtree(path, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return ``tensors, state`` of the newest checkpoint that is whole, or None where there is none.

    One that is not whole is passed over, and said to be.
    """
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        try:
            manifest = json.loads((candidate / MANIFEST).read_text(encoding="utf-8"))
            if manifest != {name: digest(candidate / name) for name in (TENSORS, STATE)}:
                raise ValueError("its contents are not those of its manifest")
            with safe_open(candidate / TENSORS, "pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
            return tensors, json.loads((candidate / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError) as error:
            say(f"passed over: checkpoint {candidate} is not whole ({error})")
    return None


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _free_name(folder: Path, step: int) -> Path:
    """Return a folder for ``step`` that is not there: a damaged one of that step goes when its successor stands."""
    names = (_name(step), *(f"{_name(step)}.{number:04d}" for number in range(1, 10_000)))
    return next(folder / name for name in names if not (folder / name).exists())


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with disk_errors(path):
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    sync_folder(path)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return an optimiser's state as tensors ``<parameter>/<slot>``; ``names`` are its parameters', in order."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{slot}": torch.as_tensor(value) for i, slots in state.items() for slot, value in slots.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    number = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        state.setdefault(number[name], {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` under ``prefix:name``."""
    return {f"{prefix}:{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `prefixed` put under ``prefix``, by their own names."""
    return {name.removeprefix(f"{prefix}:"): value for name, value in tensors.items() if name.startswith(f"{prefix}:")}
