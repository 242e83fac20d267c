"""Captioned pictures: what is read, what is set aside and counted, and how a picture is seen."""

import io
import json
import random
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rlhf_images.data import DIGIT_CAPTIONS, MAX_PIXELS, captioned, decode, digits, encode
from rlhf_images.errors import BadInput

SPRITES = Path(__file__).parents[2] / "shared/data/sprites"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep what `datasets` remembers of a folder out of the home directory and out of the next test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


def saved(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Return the few bytes of a PNG whose header claims these dimensions."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def write_folder(folder: Path, files: dict[str, bytes], rows: list[dict]) -> str:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def captions(files) -> list[dict]:
    return [{"file_name": name, "text": f"a {name}"} for name in files]


@pytest.fixture
def ten_digits() -> dict[str, bytes]:
    return {f"{i}.png": encode(image) for i, image in enumerate(digits(16)[0][:10])}


def test_the_digits_are_all_there_captioned_and_in_range():
    data = captioned("digits", 16)
    assert data.images.shape == (1797, 3, 16, 16)
    assert data.images.min() == 0
    assert data.images.max() == 1
    assert len(data.captions) == 1797
    assert set(data.captions) == set(DIGIT_CAPTIONS)
    assert data.set_aside == []
    labels = digits(16)[1]
    assert [DIGIT_CAPTIONS[label] for label in labels.tolist()] == data.captions
    ink = data.images.mean((1, 2, 3))
    assert ink[labels == 1].std() > 0  # real scans: no two writers alike
    assert torch.equal(data.images[:, 0], data.images[:, 2])


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_encoding_and_decoding_is_exact_to_one_part_in_255(form):
    image = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0))
    once = decode(encode(image, form))
    assert (once - image).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(decode(encode(once, form)), once)


def test_a_folder_keeps_what_can_be_read_and_names_what_cannot(tmp_path, ten_digits):
    large = saved(Image.effect_noise((64, 64), 90))
    bad = {
        "truncated.png": large[: len(large) // 2],
        "text.png": b"not a picture at all",
        "empty.png": b"",
        "bomb.png": bomb(50_000, 50_000),
        "fuse.png": bomb(10_000, MAX_PIXELS // 10_000 + 1),
    }
    rgba = Image.new("RGBA", (20, 12), (255, 0, 0, 128))
    good = {
        **ten_digits,
        "palette.png": saved(rgba.quantize(8)),
        "one_bit.png": saved(Image.new("1", (8, 8), 1)),
        "cmyk.jpg": saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"),
        "grey.webp": saved(Image.new("L", (30, 5), 100), "WEBP"),
    }
    files = {**good, **bad}
    data = captioned(write_folder(tmp_path / "set", files, captions(files)), 16)
    assert sorted(data.captions) == sorted(f"a {name}" for name in good)
    assert data.images.shape == (len(good), 3, 16, 16)
    reasons = {Path(name).name: reason for name, reason in data.set_aside}
    assert reasons.keys() == bad.keys()
    assert all(reason and "\n" not in reason and "0x" not in reason for reason in reasons.values())
    assert "pixels" in reasons["fuse.png"]
    for image, caption in zip(data.images, data.captions, strict=True):
        name = caption.removeprefix("a ")
        assert torch.equal(image, decode(good[name], 16)), name


def test_a_bomb_is_refused_before_its_pixels_exist():
    with pytest.raises(ValueError, match="pixels"):
        decode(bomb(30_000, 30_000))
    with pytest.raises(ValueError, match="limit is 64000000"):
        decode(bomb(8_000, 8_001))


def dealt_with(data: bytes) -> str:
    """Return "fine" for a picture and for a proper refusal alike; anything else that is raised goes through."""
    try:
        return "fine" if decode(data, 8).shape == (3, 8, 8) else "misshapen"
    except ValueError as error:
        reason = str(error)
        return "fine" if reason and "\n" not in reason and "0x" not in reason else reason


def test_broken_bytes_are_a_value_error_with_one_line_and_nothing_else():
    picture = Image.effect_noise((24, 24), 90).convert("RGBA")
    rng = random.Random(0)
    for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"):
        whole = saved(picture.convert("RGB"), form)
        for _ in range(60):
            data = bytearray(whole[: rng.randrange(1, len(whole))] if rng.random() < 0.3 else whole)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(min(len(data), 90))] = rng.randrange(256)
            assert dealt_with(bytes(data)) == "fine", bytes(data)


def test_postscript_is_never_given_to_its_interpreter():
    with pytest.raises(ValueError, match="format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_white_whatever_colour_they_hide(form):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 255, 0, 0, 255
    pixels[0, 1] = 9, 99, 199, 0
    pixels[1, 0] = 0, 0, 0, 51
    pixels[1, 1] = 0, 255, 0, 255
    image = decode(saved(Image.fromarray(pixels), form, **({"lossless": True} if form == "WEBP" else {})))
    expected = torch.tensor([[[1, 0, 0], [1, 1, 1]], [[0.8, 0.8, 0.8], [0, 1, 0]]]).permute(2, 0, 1)
    assert (image - expected).abs().max() < 0.005


def test_a_palette_with_a_transparent_entry_is_white_there():
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((1, 0), 1)
    image = decode(saved(picture, transparency=0))
    assert image[:, 0].T.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_sixteen_bits_keep_their_shades():
    ramp = np.linspace(0, 65535, 16).astype(np.uint16)[None]
    image = decode(saved(Image.fromarray(ramp)))
    assert (image[0, 0] - torch.linspace(0, 1, 16)).abs().max() < 1 / 255


def test_numbers_without_a_range_are_refused_instead_of_clipped():
    with pytest.raises(ValueError, match="range"):
        decode(saved(Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32)[None]), "TIFF"))


def test_a_turned_photograph_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode(saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).shape == (3, 40, 20)


def test_a_square_is_cut_from_the_middle():
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (10, 0, 20, 10))
    image = decode(saved(picture), 10)
    assert torch.equal(image, torch.tensor([0.0, 0, 1])[:, None, None].expand(3, 10, 10))


def test_a_folder_without_metadata_says_what_to_write(tmp_path):
    (tmp_path / "a.png").write_bytes(saved(Image.new("RGB", (4, 4))))
    with pytest.raises(BadInput, match=r"metadata\.jsonl"):
        captioned(str(tmp_path), 8)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, ten_digits):
    rows = [{"file_name": name, "txt": "x"} for name in ten_digits]
    with pytest.raises(BadInput, match="no column 'text'; it has image, txt"):
        captioned(write_folder(tmp_path / "set", ten_digits, rows), 8)


@pytest.mark.parametrize("source", ["./nothing", "/nothing/here", "nothing", "a/b/c"])
def test_a_missing_data_set_is_named(source):
    with pytest.raises(BadInput, match=f"^{source}: no such folder or data set$"):
        captioned(source, 8)


def test_a_set_of_nothing_but_bad_pictures_is_refused_with_the_reason(tmp_path):
    files = {"a.png": b"x", "b.png": b"y"}
    with pytest.raises(BadInput, match="none of its 2 pictures"):
        captioned(write_folder(tmp_path / "set", files, captions(files)), 8)


@pytest.mark.parametrize("text", ["", "garbage\n", '{"file_name": "gone.png", "text": "a"}\n'])
def test_metadata_that_describes_nothing_is_refused(tmp_path, text):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(BadInput, match=str(tmp_path)) as raised:
        captioned(str(tmp_path), 8)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("column", ["struct", "binary"])
def test_parquet_with_the_pictures_inside(tmp_path, ten_digits, column):
    pictures = [*ten_digits.values(), b"broken", None]
    if column == "struct":
        pictures = [data if data is None else {"bytes": data, "path": None} for data in pictures]
    table = pa.table({"image": pictures, "text": [*ten_digits, "broken", "absent"]})
    pq.write_table(table, tmp_path / "set.parquet")
    for source in (tmp_path / "set.parquet", tmp_path):
        data = captioned(str(source), 16)
        assert data.captions == list(ten_digits)
        assert [name for name, _ in data.set_aside] == ["row 10", "row 11"]
        assert torch.equal(data.images[3], decode(ten_digits["3.png"], 16))


def test_a_picture_without_a_caption_is_set_aside(tmp_path, ten_digits):
    pictures = [{"bytes": data, "path": name} for name, data in ten_digits.items()]
    pq.write_table(pa.table({"image": pictures, "text": [None, *list(ten_digits)[1:]]}), tmp_path / "set.parquet")
    data = captioned(str(tmp_path / "set.parquet"), 16)
    assert data.captions == list(ten_digits)[1:]
    assert [name for name, _ in data.set_aside] == ["0.png"]


@pytest.mark.parametrize("split", [None, "train", "other"])
def test_what_save_to_disk_wrote(tmp_path, ten_digits, split):
    rows = {"image": [Image.open(io.BytesIO(data)) for data in ten_digits.values()], "text": list(ten_digits)}
    saved_set = datasets.Dataset.from_dict(rows)
    (saved_set if split is None else datasets.DatasetDict({split: saved_set})).save_to_disk(str(tmp_path / "set"))
    data = captioned(str(tmp_path / "set"), 16)
    assert data.captions == list(ten_digits)
    assert torch.equal(data.images[7], decode(ten_digits["7.png"], 16))


@pytest.mark.skipif(not SPRITES.is_dir(), reason="the sprites of the workshop are not on this machine")
def test_real_sprites_written_out_come_back(tmp_path):
    tiles = np.load(SPRITES / "tiles_32_rgba.npz")["images"]
    rows = [json.loads(line) for line in (SPRITES / "captions.jsonl").read_text().splitlines()][::70][:50]
    files = {f"{row['i']:05d}.png": saved(Image.fromarray(tiles[row["i"]])) for row in rows}
    texts = [{"file_name": f"{row['i']:05d}.png", "text": row["caption"]} for row in rows]
    data = captioned(write_folder(tmp_path / "sprites", files, texts), 32)
    assert data.set_aside == []
    assert sorted(data.captions) == sorted(row["caption"] for row in rows)
    by_caption = dict(zip(data.captions, data.images, strict=True))
    for row in rows:
        rgba = torch.from_numpy(tiles[row["i"]]).permute(2, 0, 1) / 255
        over_white = rgba[:3] * rgba[3:] + 1 - rgba[3:]
        assert (by_caption[row["caption"]] - over_white).abs().max() < 0.01, row["file"]
