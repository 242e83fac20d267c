"""Latents kept beside the pictures that were decoded from them: ``<folder>/latents/<picture id>.safetensors``.

Whoever learns from the pictures is then spared the encoder, and what an encoder and a decoder lose between them.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..files import write_atomically


def keep(folder: Path, picture_id: str, x0: Tensor) -> None:
    """Write the latents ``(…)`` of a picture."""
    (folder / "latents").mkdir(parents=True, exist_ok=True)
    write_atomically(_file(folder, picture_id), save({"x0": x0.detach().cpu().contiguous()}))


def kept(folder: Path, picture_id: str) -> Tensor | None:
    """Return what was kept of a picture, or None where there is nothing that can be read."""
    try:
        return load(_file(folder, picture_id).read_bytes())["x0"].float()
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _file(folder: Path, picture_id: str) -> Path:
    return folder / "latents" / f"{picture_id}.safetensors"
