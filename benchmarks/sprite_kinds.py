"""Which kind of sprite is it? Two readers fitted on two halves of a captioned picture folder, for the trials of alarms.

SPRITES=runs/sprites/pictures … reward=sprite_kinds:taught … evaluation.judges.kind=sprite_kinds:held_out
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@cache
def _half(which: int) -> tuple[np.ndarray, np.ndarray]:
    folder = Path(os.environ.get("SPRITES", "runs/sprites/pictures"))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()][which::2]
    pictures = [np.asarray(Image.open(folder / row["file_name"]).convert("RGB"), np.float32) / 255 for row in rows]
    return np.stack(pictures).transpose(0, 3, 1, 2), np.array([row["text"] for row in rows])


def _seen(images: Tensor) -> np.ndarray:
    small = torch.nn.functional.adaptive_avg_pool2d(images.detach().float().cpu(), 16)
    return np.asarray(small.flatten(1))


@cache
def _reader(which: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, kinds = _half(which)
    model = LogisticRegression(max_iter=300, C=0.01 if which else 0.02)
    return make_pipeline(StandardScaler(), model).fit(_seen(torch.from_numpy(images)), kinds)


def _chance(which: int, images: Tensor, prompts: list[str]) -> Tensor:
    reader = _reader(which)
    place = {kind: i for i, kind in enumerate(reader.classes_)}
    chances = reader.predict_proba(_seen(images))
    return torch.tensor([chances[row, place[prompt]] for row, prompt in enumerate(prompts)], dtype=torch.float32)


def taught(images: Tensor, prompts: list[str]) -> Tensor:
    """Return the chance of the kind that was asked for, by the reader of the first half."""
    return _chance(0, images, prompts).to(images.device)


def held_out(images: Tensor, prompts: list[str]) -> Tensor:
    """Return the same by the reader of the second half."""
    return _chance(1, images, prompts).to(images.device)
