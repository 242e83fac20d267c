"""Features that were computed once: a safetensors file an extractor, beside the pictures, by the hash of each picture.

A file that is damaged, or of other features, is computed anew: nothing is lost but time.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from rlhf_images.files import write_atomically
from rlhf_images.preferences.pairs import Pairs
from rlhf_images.progress import progress

from .extractors import Blocks, Extractor

BATCH = 16
"""Pictures that are decoded at a time."""
BETWEEN = 64
"""Batches after which the new features are kept: what an interruption costs at most."""


@final
class FeatureCache:
    """What one extractor said of the pictures of a folder of pairs."""

    def __init__(self, pairs: Pairs, extractor: Extractor) -> None:
        self.pairs, self.extractor = pairs, extractor
        self.path = pairs.folder / "features" / f"{extractor.id}.safetensors"
        self._rows, self._blocks = _kept(self.path)

    def blocks(self, ids: Sequence[str], prompts: Sequence[str], device: torch.device | str = "cpu") -> Blocks:
        """Return the features of pictures ``ids``, drawn for ``prompts``, ``(N, D)`` a block; new ones are kept."""
        keys = [self._key(*row) for row in zip(ids, prompts, strict=True)]
        missing = {key: row for key, *row in zip(keys, ids, prompts, strict=True) if key not in self._rows}
        if missing:
            self._add(missing, device)
        rows = torch.tensor([self._rows[key] for key in keys])
        return {name: block[rows] for name, block in self._blocks.items()}

    def _key(self, picture: str, prompt: str) -> str:
        return picture + (hashlib.sha256(prompt.encode()).hexdigest() if self.extractor.prompted else 64 * "0")

    @torch.no_grad()
    def _add(self, missing: dict[str, list[str]], device: torch.device | str) -> None:
        by_prompt = sorted(missing, key=lambda key: missing[key][1])  # so that a prompt's pictures go together
        batches = [by_prompt[i : i + BATCH] for i in range(0, len(by_prompt), BATCH)]
        found: list[Blocks] = []
        order: list[str] = []
        for number, batch in enumerate(progress(batches, f"features ({self.extractor.id.rpartition('-')[0]})"), 1):
            images = {key: self.pairs.image(missing[key][0]) for key in batch}
            for shape in dict.fromkeys(image.shape for image in images.values()):
                same = [key for key in batch if images[key].shape == shape]
                stacked = torch.stack([images[key] for key in same]).to(device)
                blocks = self.extractor.blocks(stacked, [missing[key][1] for key in same])
                found.append({name: block.float().cpu() for name, block in blocks.items()})
                order += same
            if number % BETWEEN == 0 or number == len(batches):
                self._keep(found, order)
                found, order = [], []

    def _keep(self, found: list[Blocks], order: list[str]) -> None:
        """Add the features ``found`` of the pictures with the keys ``order``, and write them all."""
        new = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        self._rows |= {key: len(self._rows) + i for i, key in enumerate(order)}
        self._blocks = {n: torch.cat([self._blocks[n], b]) if n in self._blocks else b for n, b in new.items()}
        keys = torch.frombuffer(bytearray(bytes.fromhex("".join(self._rows))), dtype=torch.uint8).view(-1, 64)
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, save({f"block {n}": b for n, b in self._blocks.items()} | {"keys": keys}))


def decoded_before(pairs: Pairs) -> set[str]:
    """Return the ids of the pictures of which any features are kept: they were read, and had the bytes of their id."""
    return {key[:64] for path in (pairs.folder / "features").glob("*.safetensors") for key in _kept(path)[0]}


def _kept(path: Path) -> tuple[dict[str, int], Blocks]:
    try:
        tensors = load_file(path)
        keys = tensors.pop("keys")
        rows = {bytes(key).hex(): row for row, key in enumerate(keys.numpy())}
        blocks = {name.removeprefix("block "): block for name, block in tensors.items()}
        if len(rows) != len(keys) or not all(len(block) == len(keys) and block.ndim == 2 for block in blocks.values()):
            return {}, {}
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}, {}
    return rows, blocks
