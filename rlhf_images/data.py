"""Captioned pictures: the embedded handwriting, or any image data set with ``image`` and ``text`` columns.

The embedded set is scikit-learn's handwritten digits: 1,797 real 8×8 scans that ship in its wheel, so no download is
needed anywhere.
"""

import io
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import BadInput

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_CAPTIONS = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)
MAX_PIXELS = 64_000_000
"""A picture with more pixels than this is refused before it is decoded."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""The formats that are read. Not all that Pillow knows: for EPS it would run a program."""


@final
@dataclass(frozen=True)
class Captioned:
    """``images (N, 3, H, W)`` in [0, 1] with one caption each, and what was set aside: ``(name, reason)``."""

    images: Tensor
    captions: list[str]
    set_aside: list[tuple[str, str]]


@cache
def digits(size: int = 16) -> tuple[Tensor, Tensor]:
    """Return the digits, white on black: ``images (1797, 3, size, size)`` in [0, 1] and ``labels (1797,)``."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = torch.tensor(scans.images / 16, dtype=torch.float32)[:, None]
    images = interpolate(images, size=size, mode="bicubic").clamp(0, 1)
    return images.expand(-1, 3, -1, -1).contiguous(), torch.tensor(scans.target)


def captioned(source: str, size: int) -> Captioned:
    """Return the captioned pictures of ``source``, each cropped to a centred square of ``size`` pixels.

    ``source`` is ``"digits"``, a folder with a ``metadata.jsonl`` (``file_name``, ``text``), a parquet file,
    a folder written by ``Dataset.save_to_disk``, or the name of a data set on the hub. A corrupt picture is set aside.
    """
    if source == "digits":
        scans, labels = digits(size)
        return Captioned(scans, [DIGIT_CAPTIONS[i] for i in labels.tolist()], [])
    rows = _rows(source)
    images: list[Tensor] = []
    captions: list[str] = []
    set_aside: list[tuple[str, str]] = []
    for number, row in enumerate(rows):
        image = row["image"] or {"path": None, "bytes": None}
        name = str(image["path"] or f"row {number}")
        try:
            if row["text"] is None:
                raise ValueError("it has no text")
            images.append(decode(image["bytes"] or Path(name).read_bytes(), size))
        except (OSError, ValueError) as error:
            set_aside.append((name, str(error)))
            continue
        captions.append(str(row["text"]))
    if not images:
        raise BadInput(
            f"{source}: none of its {len(set_aside)} pictures can be read ({set_aside[0][1]})"
            if set_aside
            else f"{source}: no pictures in it"
        )
    return Captioned(torch.stack(images), captions, set_aside)


def decode(data: bytes, size: int | None = None) -> Tensor:
    """Return an encoded picture as ``(3, H, W)`` in [0, 1], as a centred square of ``size`` pixels if given.

    It looks as it does on a white page: upright, and white where it is transparent, whatever colour hides there. Of an
    animation it is the first frame. Raises `ValueError` for one that is corrupt or larger than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures that are large; `_shown` has its own limit
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("not a picture in a format that is read") from None
    except Exception as error:  # Pillow's readers raise a dozen kinds; each means that these bytes are no whole picture
        raise ValueError(_reason(error)) from None
    return tensor(picture, size)


def tensor(picture: Image.Image, size: int | None = None) -> Tensor:
    """Return a PIL picture as `decode` returns its bytes; raises `ValueError` as it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken metadata; the size is checked in `_shown`
            picture = _shown(picture)
    except Exception as error:  # a picture is decoded when it is first looked at: see above
        raise ValueError(_reason(error)) from None
    if size is not None:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def encode(image: Tensor, form: str = "PNG", **options: Any) -> bytes:
    """Return picture ``(3, H, W)`` in [0, 1] as the bytes of a PNG (or another PIL format)."""
    buffer = io.BytesIO()
    pil(image).save(buffer, form, **options)
    return buffer.getvalue()


def pil(image: Tensor) -> Image.Image:
    """Return picture ``(3, H, W)`` in [0, 1] as PIL's, rounded to bytes."""
    return Image.fromarray((image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _shown(picture: Image.Image) -> Image.Image:
    """Return a picture that was opened but not yet decoded as RGB, as it looks on a white page."""
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width}×{picture.height} pixels, the limit is {MAX_PIXELS}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        deep = np.asarray(picture)
        shown = np.where(deep == picture.info.get("transparency", -1), 65535, deep)  # one grey may be declared clear
        return Image.fromarray((shown / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("its numbers have no fixed range; save it with 8 or 16 bits a channel")
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _rows(source: str) -> Any:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        rows = _opened(source)
    except BadInput:
        raise
    except Exception as error:  # `datasets` raises a dozen kinds; each means that the source cannot be read
        raise BadInput(f"{source}: cannot be read as a data set ({' '.join(str(error).split())[:300]})") from None
    if isinstance(rows, datasets.DatasetDict):
        rows = rows["train"] if "train" in rows else next(iter(rows.values()))
    missing = {"image", "text"} - set(rows.column_names)
    if missing:
        raise BadInput(f"{source}: no column '{sorted(missing)[0]}'; it has {', '.join(rows.column_names)}")
    return rows.cast_column("image", datasets.Image(decode=False))


def _opened(source: str) -> Any:
    import datasets

    path = Path(source)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(source)
    if path.is_dir():
        if not (path / "metadata.jsonl").is_file() and not list(path.glob("*.parquet")):
            raise BadInput(f'{source}: no metadata.jsonl in it; write one line {{"file_name": …, "text": …}} a picture')
        kind = "imagefolder" if (path / "metadata.jsonl").is_file() else "parquet"
        return datasets.load_dataset(kind, data_dir=source, split="train")
    if path.suffix == ".parquet" and path.is_file():
        return datasets.load_dataset("parquet", data_files=source, split="train")
    if path.is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise BadInput(f"{source}: no such folder or data set")
    return datasets.load_dataset(source, split="train")
