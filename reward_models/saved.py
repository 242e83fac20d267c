"""The folder of a trained reward: its weights, and reward.json, which is written last and holds their hashes.

So half a model is never taken for one. Whatever is wrong with a folder is told in one line, with what to do.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from rlhf_images.errors import BadInput
from rlhf_images.files import write_atomically, write_json

DESCRIPTION = "reward.json"


def write(folder: Path, files: Mapping[str, bytes], told: Mapping[str, Any], reference: Tensor) -> None:
    """Write ``files`` by name, and then what is ``told`` of them with the model's ``reference`` scores ``(N,)``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data)
    write_json(folder / DESCRIPTION, {**told, "reference": [round(score, 6) for score in reference.tolist()]})


def described(folder: Path, form: str) -> dict[str, Any]:
    """Return what is told in ``folder``, whose ``format`` must be ``form``. Raises `BadInput`."""
    if not (folder / DESCRIPTION).is_file():
        raise BadInput(f"{folder}: no reward model in it (no {DESCRIPTION}); make one with 'train-reward'")
    with damage_told(folder):
        told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if told["format"] != form:
            raise ValueError(f"its {DESCRIPTION} is not of a '{form}'")
        if not all(type(score) in (int, float) and abs(score) < 1e38 for score in told["reference"]):
            raise ValueError("its reference scores are not all finite numbers")
        return {**told, "reference": sorted(map(float, told["reference"]))}


def checked(path: Path, sha256: str) -> Path:
    """Return ``path``. Raises `ValueError` where its bytes have another hash."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(f"{path.name} is not the one of {DESCRIPTION}")
    return path


def sha256(data: bytes) -> str:
    """Return the hash of a file with these bytes."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def damage_told(folder: Path) -> Iterator[None]:
    """Within its ``with``, what cannot be read of ``folder`` is a `BadInput`: a model that is damaged."""
    try:
        yield
    except (AttributeError, BadInput, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{folder}: damaged reward model ({reason}); train it again with 'train-reward'") from None
