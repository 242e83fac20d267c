"""Checkpoints that a crash cannot spoil: staged, synced, hashed, the manifest last, renamed; old ones go then.

    <folder>/step_00000020/
      tensors.safetensors   every tensor, by name
      state.json            everything else
      manifest.json         SHA-256 of both: without it, or with another hash, the folder is no checkpoint

No pickle anywhere: an optimiser's state is tensors and numbers, and is kept as such.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .files import sync_folder, write_atomically, write_json

KEPT = 2
"""How many checkpoints stay."""


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of ``step`` finished steps and return its folder. What was there stays until it stands."""
    final = folder / f"step_{step:08d}"
    staged = folder / f".staged_{step:08d}.{os.getpid()}"
    for left_by_a_crash in folder.glob(".staged_*"):
        shutil.rmtree(left_by_a_crash, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        contents = {
            "tensors.safetensors": save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}),
            "state.json": json.dumps({**state, "step": step}, allow_nan=False).encode(),
        }
        for name, data in contents.items():
            write_atomically(staged / name, data)
        write_json(
            staged / "manifest.json", {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        )
        shutil.rmtree(final, ignore_errors=True)
        staged.replace(final)
        sync_folder(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    others = sorted(path for path in folder.glob("step_*") if path != final)
    older = [path for path in others if path.name < final.name]  # newer ones could not be loaded
    for path in others:
        if path not in older[1 - KEPT :]:
            shutil.rmtree(path, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return ``tensors, state`` of the newest checkpoint that is whole, or None where there is none."""
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        try:
            manifest = json.loads((candidate / "manifest.json").read_text(encoding="utf-8"))
            contents = {name: (candidate / name).read_bytes() for name in ("tensors.safetensors", "state.json")}
            if {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()} == manifest:
                return load(contents["tensors.safetensors"]), json.loads(contents["state.json"])
        except (OSError, ValueError):
            continue
    return None


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
