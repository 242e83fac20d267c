"""What a run leaves to look at while it runs: `metrics.jsonl`, `evaluations.jsonl` and grids of samples."""

import difflib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers
from safetensors.torch import save
from torch import Tensor

from .config import plain
from .data import encode
from .errors import BadInput
from .files import sync_folder, write_atomically, write_json
from .sampling import Rollout

CHANGES = object()
"""Stands for the value of what is not always the same."""


@final
class Log:
    """A file of JSON lines, one a step. A resumed run first takes back what was logged past its checkpoint."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step`` finished steps, and a last line that a crash cut short."""
        if self.writes and self.path.is_file():
            kept = [row for row in self.rows() if row["step"] <= step]
            write_atomically(self.path, "".join(_line(row) for row in kept).encode())

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; a number that is not finite is written as null."""
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))

    def sync(self) -> None:
        """Make what was logged survive a power cut: before a checkpoint of the same step does."""
        if self.writes and self.path.is_file():
            sync_folder(self.path)
            sync_folder(self.path.parent)

    def rows(self) -> list[dict[str, Any]]:
        """Return every whole row."""
        return read_rows(self.path)


def read_rows(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Return the whole rows of a log, none where there is no file.

    Of one with more than ``most`` lines only so many, evenly chosen with the first and the last, and besides them each
    row in which a value first changes: what is the same in all that are returned never changed.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        count = sum(1 for _ in file) if most is not None else 0
    wanted = set(np.linspace(0, count - 1, most).round().astype(int).tolist()) if most and count > most else None
    rows, same = list[dict[str, Any]](), dict[str, Any]()
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            changed = [key for key, value in row.items() if same.setdefault(key, value) not in (value, CHANGES)]
            same |= dict.fromkeys(changed, CHANGES)
            if wanted is None or number in wanted or changed:
                rows.append(row)
    return rows


def save_grid(path: Path, images: Tensor, prompts: list[str], columns: int = 12) -> None:
    """Write pictures ``(N, 3, H, W)`` as one PNG: a row a prompt, its first ``columns`` pictures side by side."""
    by_prompt: dict[str, list[Tensor]] = {}
    for prompt, image in zip(prompts, images, strict=True):
        by_prompt.setdefault(prompt, []).append(image)
    width = min(columns, max(len(row) for row in by_prompt.values()))
    blank = torch.zeros_like(images[0])
    rows = [torch.cat((row + [blank] * width)[:width], dim=2) for row in list(by_prompt.values())[:32]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode(torch.cat(rows, dim=1)))


def keep_evidence(folder: Path, name: str, rollout: Rollout, process: int) -> None:
    """Write one process's prompts, pictures and latents of what was refused.

    A disk that refuses them too changes nothing of the reason to stop.
    """
    tensors = {"images": rollout.images, "x0": rollout.x0, "x": rollout.x, "times": rollout.times}
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{name}_process_{process}.safetensors", data)
        write_json(folder / f"{name}_process_{process}.json", {"prompts": rollout.prompts, "index": rollout.index})


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that accelerate does not know, or whose package is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            near = difflib.get_close_matches(name, LOGGER_TYPE_TO_CLASS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(LOGGER_TYPE_TO_CLASS)}"
            raise BadInput(f"trackers: accelerate has no '{name}'; {hint}")
        if not filter_trackers([name], "anywhere"):
            raise BadInput(f"trackers: the package of '{name}' is not installed; install it, or leave it out")


def start_trackers(accelerator: Accelerator, names: Sequence[str], folder: str, config: Any) -> None:
    """Let ``accelerator.log`` reach the trackers ``names`` (see `FinetuneConfig.trackers`), which learn the config."""
    if names:
        accelerator.project_configuration.set_directories(str(Path(folder) / "trackers"))
        accelerator.log_with = filter_trackers(list(names), accelerator.logging_dir)
        accelerator.init_trackers(Path(folder).name, config=dict(_flat(plain(config))))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """Yield the plain values of a config as ``key.sub`` and what a tracker takes: numbers and text."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, bool | int | float | str) else json.dumps(value)


@final
class Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap to ``name``."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    def metrics(self, images: int) -> dict[str, float]:
        """Return images per second and the seconds of each part."""
        spent = {f"seconds_{name}": seconds for name, seconds in self.laps.items()}
        return {"images_per_second": images / sum(self.laps.values()), **spent}


def _line(row: dict[str, Any]) -> str:
    known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(known, allow_nan=False) + "\n"
