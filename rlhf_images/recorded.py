"""Evaluations on disk: what the report and the alarms are computed from at any time, also in the middle of a run.

<run>/evaluations/step_000020/
  pictures/000007.webp   row 7, of the rows that are kept: the same ones in every evaluation of a run
  tensors.safetensors    of all N rows: thumbnails (N, 3, h, w) and, where a judge sees any, features (N, D)
                         and their mean (3, h', w'), in which what all of them share stands out
  evaluation.json        everything else: the step, the prompts, and of all N rows each judge's scores and the signs
                         that the alarms look at; written last

Row r of P prompts is the picture of prompt r % P from seed r // P, with the noise that every evaluation gives this row:
rows of one number are the same picture by other weights, and fewer seeds are the first rows of more.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .data import decode, encode
from .errors import BadInput
from .evaluator import Evaluation
from .files import sync_folder, write_atomically, write_json
from .signs import Shared, signs
from .statistics import distances, thumbnail

FOLDER = "evaluations"
"""Where a run keeps the evaluations of its training."""
TENSORS = "tensors.safetensors"
"""The file of an evaluation's arrays."""
LOSSLESS = 64
"""Pictures with a side below this are kept as PNG, others as WebP of quality `QUALITY`."""
QUALITY = 80


@final
@dataclass(frozen=True)
class Recorded:
    """One generator on the fixed prompts and seeds, read back. Scores are NaN where a judge failed."""

    folder: Path
    step: int | None
    """Finished steps of training; None for a generator that is no checkpoint of this run."""
    names: list[str]
    """The P prompts."""
    kept: list[int]
    """The rows whose pictures lie in the folder, ascending."""
    scores: dict[str, NDArray[np.float64]]
    """Judge → ``(N,)``; ``reward`` is the trained one."""
    stds: dict[str, NDArray[np.float64]]
    """How unsure a judge is of its scores, in their unit ``(N,)``; only of judges that can say."""
    count: int
    """N."""
    features_by: str | None
    """The judge that `features` are of."""
    signs: dict[str, NDArray[np.float64]]
    """What the alarms look at in each picture, by name ``(N,)``: see `signs`."""
    texture: float
    """Root mean square of what is finer than 3×3 pixels in the pictures that `mean` was taken of."""
    highest_labelled: float | None
    """The trained reward's highest score of a picture that somebody labelled; None where it knows none."""

    @property
    def thumbnails(self) -> NDArray[np.float64]:
        """Return every picture, averaged by area to at most 32×32: ``(N, 3, h, w)`` in [0, 1].

        Read whenever asked for, as are the two below: a long run has many evaluations, and looks at each in its turn.
        """
        return self._array("thumbnails")

    @property
    def features(self) -> NDArray[np.float64] | None:
        """Return what the judge ``features_by`` sees in each picture, ``(N, D)``."""
        return self._array("features") if self.features_by else None

    @property
    def mean(self) -> NDArray[np.float64]:
        """Return the mean of all N pictures, averaged by area to at most 256×256: ``(3, h', w')``."""
        return self._array("mean")

    def _array(self, name: str) -> NDArray[np.float64]:
        try:
            with safe_open(self.folder / TENSORS, "np") as file:
                return np.asarray(file.get_tensor(name), dtype=np.float64)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder, error) from None

    @property
    def prompts(self) -> list[str]:
        """Return the prompt of each row."""
        return [self.names[row % len(self.names)] for row in range(self.count)]

    @property
    def seeds(self) -> list[int]:
        """Return the seed of each row: the n-th picture of its prompt."""
        return [row // len(self.names) for row in range(self.count)]

    def picture(self, row: int) -> bytes:
        """Return the kept picture of ``row``, encoded. Raises `BadInput` for one that is not there."""
        for path in (self.folder / "pictures" / f"{row:06d}.{ending}" for ending in ("png", "webp")):
            if path.is_file():
                return path.read_bytes()
        raise BadInput(f"{self.folder}: the picture of row {row} is missing; the same finetune command makes it again")

    def image(self, row: int) -> Tensor:
        """Return the kept picture of ``row`` as ``(3, H, W)`` in [0, 1]."""
        try:
            return decode(self.picture(row))
        except ValueError as error:
            raise BadInput(f"{self.folder}: the picture of row {row} is corrupt ({error})") from None


def record(
    folder: Path,
    evaluation: Evaluation,
    kept: Iterable[int],
    step: int | None = None,
    more: Callable[[Path], None] | None = None,
) -> Recorded:
    """Write ``evaluation`` with the pictures of the rows ``kept`` to ``folder``, in place of what is there; return it.

    ``more`` may write further files of the same checkpoint, such as its weights, into the folder it is given.
    """
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        (staged / "pictures").mkdir(parents=True)
        rows = sorted(kept)
        for row in rows:
            data, ending = encoded(evaluation.images[row])
            write_atomically(staged / "pictures" / f"{row:06d}.{ending}", data, sync=False)
        thumbnails = np.stack([thumbnail(image.numpy()) for image in evaluation.images.double()])
        shared = Shared(evaluation.images)
        tensors = {"thumbnails": torch.from_numpy(thumbnails).half().contiguous(), "mean": shared.mean}
        if evaluation.features is not None:
            tensors["features"] = evaluation.features.float().contiguous()
        write_atomically(staged / TENSORS, save(tensors), sync=False)
        if more is not None:
            more(staged)
        os.sync()
        description = {
            "step": step,
            "prompts": list(dict.fromkeys(evaluation.prompts)),
            "kept": rows,
            "features_by": evaluation.features_by,
            "scores": _plain(evaluation.scores),
            "stds": _plain(evaluation.stds),
            "signs": _plain(signs(evaluation.images)),
            "texture": shared.texture,
            "highest_labelled": evaluation.highest_labelled,
        }
        write_json(staged / "evaluation.json", description)
        shutil.rmtree(folder, ignore_errors=True)
        staged.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return read(folder)


def read(folder: Path) -> Recorded:
    """Return the evaluation in ``folder``. Raises `BadInput` for one that is missing or damaged."""
    try:
        told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        with safe_open(folder / TENSORS, "np") as file:
            count, arrays = int(file.get_slice("thumbnails").get_shape()[0]), set(file.keys())
        scores, stds, seen = (
            {str(name): np.array(column, dtype=np.float64) for name, column in told[kind].items()}
            for kind in ("scores", "stds", "signs")
        )
        columns = [*scores.values(), *stds.values(), *seen.values()]
        if any(len(column) != count for column in columns) or not told["prompts"]:
            raise ValueError("not one score a picture")
        if not arrays >= {"mean"} | ({"features"} if told["features_by"] else set()):
            raise ValueError("not every tensor is there")
        return Recorded(
            folder=folder,
            step=None if told["step"] is None else int(told["step"]),
            names=[str(prompt) for prompt in told["prompts"]],
            kept=[int(row) for row in told["kept"]],
            scores=scores,
            stds=stds,
            count=count,
            features_by=told["features_by"],
            signs=seen,
            texture=float(told["texture"]),
            highest_labelled=None if told["highest_labelled"] is None else float(told["highest_labelled"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> BadInput:
    return BadInput(f"{folder}: no whole evaluation ({' '.join(str(error).split())[:200]})")


def of_run(run: Path) -> list[Recorded]:
    """Return the evaluations of the training in folder ``run`` by step; one that is damaged is left out."""
    found = []
    for path in sorted((run / FOLDER).glob("step_*")):
        try:
            found.append(read(path))
        except BadInput:
            continue
    return sorted(found, key=lambda recorded: recorded.step or 0)


def place(run: Path, step: int) -> Path:
    """Return the folder of the evaluation after ``step`` finished steps."""
    return run / FOLDER / f"step_{step:06d}"


def base_of(run: Path) -> Recorded | None:
    """Return the evaluation before the first step, or None where it is missing or damaged."""
    try:
        return read(place(run, 0))
    except BadInput:
        return None


def rewind(run: Path, step: int) -> None:
    """Drop the evaluations after ``step`` finished steps, as a run that continues from there makes them again."""
    for path in (run / FOLDER).glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path, ignore_errors=True)


def drift(recorded: Recorded, base: Recorded) -> dict[str, float]:
    """Return how far the pictures have gone from the ``base``'s of the same rows, on average, in both spaces.

    ``distance`` is 1 − the correlation of the pixels, ``feature_distance`` 1 − the cosine of the features.
    """
    rows, found = min(recorded.count, base.count), {"distance": distance(recorded, base)}
    features = recorded.features, base.features
    if features[0] is not None and features[1] is not None and recorded.features_by == base.features_by:
        ours, theirs = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in features if f is not None)
        found["feature_distance"] = float(1 - (ours[:rows] * theirs[:rows]).sum(1).mean())
    return found


def distance(recorded: Recorded, base: Recorded) -> float:
    """Return how far the pictures have gone from the ``base``'s, in pixels: see `drift`."""
    rows = min(recorded.count, base.count)
    return float(distances(recorded.thumbnails[:rows], base.thumbnails[:rows]).mean())


def kept_rows(prompts: int, seeds: int, kept_prompts: int, kept_seeds: int) -> list[int]:
    """Return the rows to keep: the first ``kept_seeds`` of ``kept_prompts``, these evenly chosen from all."""
    chosen = np.unique(np.linspace(0, prompts - 1, min(prompts, kept_prompts)).round().astype(int)).tolist()
    return sorted(seed * prompts + prompt for seed in range(min(seeds, kept_seeds)) for prompt in chosen)


def encoded(image: Tensor) -> tuple[bytes, str]:
    """Return picture ``(3, H, W)`` as the bytes of a file and its ending: PNG where it is tiny, else WebP."""
    if min(image.shape[-2:]) < LOSSLESS:
        return encode(image, "PNG"), "png"
    return encode(image, "WEBP", quality=QUALITY), "webp"


def _plain(columns: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: [value if np.isfinite(value) else None for value in column.double().tolist()]
        for name, column in columns.items()
    }
