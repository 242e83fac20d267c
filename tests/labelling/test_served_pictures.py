"""A served picture: the same pixels that a reward model sees, and not a word of whose they are."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rounds import SECRET, encoded, made_round, served

from rlhf_images.data import MAX_PIXELS, decode
from rlhf_images.labelling.pictures import SIGNATURE, bare
from rlhf_images.labelling.pictures import served as served_bytes
from rlhf_images.preferences import Pairs, Picture, PreferencePair

TOLD = PngInfo()
TOLD.add_text("Software", SECRET)


def saved(mode: str, form: str = "PNG", **options) -> bytes:
    """Return a random picture of this PIL mode, with metadata wherever the format has room for it."""
    random = np.random.default_rng(7)
    if mode == "I;16":
        picture = Image.fromarray(random.integers(0, 65535, (9, 13), dtype=np.uint16))
    elif mode == "P":
        picture = Image.fromarray(random.integers(0, 255, (9, 13, 3), dtype=np.uint8)).quantize(8)
    else:
        bands = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
        pixels = random.integers(0, 255, (9, 13, bands), dtype=np.uint8)
        picture = Image.fromarray(
            pixels.squeeze() > 127 if mode == "1" else pixels.squeeze(-1) if bands == 1 else pixels
        )
        assert picture.mode == mode
    if form in ("JPEG", "WEBP", "PNG"):
        exif = Image.Exif()
        exif[0x0131] = SECRET
        options = {"exif": exif} | options
    file = io.BytesIO()
    picture.save(file, form, **({"pnginfo": TOLD} if form == "PNG" else {}) | options)
    return file.getvalue()


def chunks(data: bytes) -> list[bytes]:
    """Return the chunk names of a PNG, whose lengths and checksums must be right."""
    assert data.startswith(SIGNATURE)
    at, names = 8, []
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(body),)
        names.append(name)
        at += 12 + length
    return names


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "PNG", {"icc_profile": b"x" * 200 + SECRET.encode()}),
        ("RGB", "PNG", {"dpi": (72, 72)}),
        ("RGB", "JPEG", {"comment": SECRET}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "GIF", {"comment": SECRET}),
        ("RGB", "BMP", {}),
    ],
    ids=str,
)
def test_what_is_shown_is_what_is_judged_and_nothing_else_is_sent(mode, form, options):
    data = saved(mode, form, **options)
    sent = bare(data)
    assert set(chunks(sent)) <= {b"IHDR", b"IDAT", b"IEND"}
    assert SECRET.encode() not in sent
    assert torch.equal(decode(sent), decode(data))
    shown = Image.open(io.BytesIO(sent))
    assert shown.mode in ("RGB", "L")
    assert shown.info == {}


def test_a_picture_that_lies_on_its_side_is_sent_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved("RGB", "JPEG", exif=exif)
    assert Image.open(io.BytesIO(data)).size == (13, 9)
    assert Image.open(io.BytesIO(bare(data))).size == (9, 13)


def test_plain_pixels_are_sent_as_they_were_compressed():
    data = encoded(3)
    sent = bare(data)
    assert len(sent) < len(data)
    start = data.index(b"IDAT") - 4
    length = struct.unpack_from(">I", data, start)[0]
    assert data[start : start + 12 + length] in sent


def test_what_is_hidden_behind_the_end_is_left_out():
    assert bare(encoded(3) + b"PK\x03\x04" + SECRET.encode()) == bare(encoded(3))


@pytest.mark.parametrize("cut", [1, 8, 20, 33, 40, 60, -13, -4, -1])
def test_a_picture_that_is_cut_off_is_refused(cut):
    data = bare(encoded(3))
    with pytest.raises(ValueError, match=r"."):
        bare(data[:cut])


def test_random_damage_is_refused_or_harmless():
    random = np.random.default_rng(0)
    data = np.frombuffer(saved("RGBA"), np.uint8)
    for _ in range(300):
        broken = data.copy()
        broken[random.integers(8, len(data), 3)] = random.integers(0, 255, 3)
        try:
            sent = bare(broken.tobytes())
        except ValueError:
            continue
        assert sent.startswith(SIGNATURE)
        assert SECRET.encode() not in sent


def bomb(width: int, height: int, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (1, MAX_PIXELS + 1), (8001, 8000)])
@pytest.mark.parametrize("colour", [0, 2, 3, 6])
def test_a_decompression_bomb_is_neither_decoded_nor_sent(width, height, colour):
    with pytest.raises(ValueError, match="pixels"):
        bare(bomb(width, height, colour))


def test_a_bomb_in_the_metadata_is_not_unpacked():
    packed = zlib.compress(bytes(200_000_000), 9)
    data = bare(encoded(1))
    body = chunk(b"zTXt", b"x\0\0" + packed) + chunk(b"iCCP", b"x\0\0" + packed)
    assert bare(data[:33] + body + data[33:]) == data


def test_the_server_tells_a_bomb_a_corrupt_picture_and_a_missing_one_apart(tmp_path):
    pairs = made_round(tmp_path / "pairs", 2)
    good, corrupt, missing, _ = pairs.pictures
    (pairs.folder / "images" / f"{corrupt}.png").write_bytes(b"not what its name says")
    (pairs.folder / "images" / f"{missing}.png").unlink()
    big = bomb(30_000, 30_000)
    name = hashlib.sha256(big).hexdigest()
    pictures = [Picture(name, "x", 0, 0, {}), *pairs.pictures.values()]
    rows = [(b"", p) if p.id != name else (big, p) for p in pictures]
    other = Pairs.create(tmp_path / "other", rows, [PreferencePair("0", "x", name, good)])
    with served(pairs) as server, served(other) as hostile:
        for client, wanted, status in (
            (server.client(), good, 200),
            (server.client(), corrupt, 422),
            (server.client(), missing, 404),
            (hostile.client(), name, 422),
            (hostile.client(), good, 422),
        ):
            answer = client.get(f"/i/{wanted}")
            assert answer.status == status
            assert str(tmp_path).encode() not in answer.body
        kept = server.client().get(f"/i/{good}").headers
        assert kept["content-type"] == "image/png"
        assert "immutable" in kept["cache-control"]


def test_only_an_id_names_a_picture(tmp_path):
    pairs = made_round(tmp_path / "pairs", 1)
    name = next(iter(pairs.pictures))
    assert served_bytes(pairs.folder, name) is not None
    for other in ("", "x", name.upper(), name + "\n", f"../images/{name}", f"{name}.png", "0" * 64):
        assert served_bytes(pairs.folder, other) is None
