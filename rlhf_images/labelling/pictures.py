"""The bytes of a picture as the page gets them: its pixels and nothing else, always as PNG.

Generators write their name, prompt and settings into a file's metadata, and a format can tell two generators apart.
What is shown equals what `data.decode` gives a reward model: both ignore colour profiles, and transparency is white.
"""

import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from ..data import MAX_PIXELS, decode, encode

ID = re.compile(r"[0-9a-f]{64}")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN = (0, 2)
"""PNG colour types grey and RGB: no palette, no transparency."""


def served(folder: Path, picture_id: str) -> bytes | None:
    """Return picture ``picture_id`` of the folder of pairs as bare PNG bytes, or None where there is no such picture.

    The id names the content, so neither a link out of the folder nor another file can pass for it. Raises `ValueError`
    for bytes that are no whole picture or more than `data.MAX_PIXELS` pixels.
    """
    if not ID.fullmatch(picture_id):
        return None
    try:
        path = (folder / "images" / f"{picture_id}.png").resolve(strict=True)
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        data = path.read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        return None
    if hashlib.sha256(data).hexdigest() != picture_id:
        raise ValueError("its bytes are not those of its name")
    return bare(data)


def bare(data: bytes) -> bytes:
    """Return the picture as a PNG of header and pixels: the same compressed pixels where they are plain, else anew."""
    if not data.startswith(SIGNATURE):
        return encode(decode(data))
    header, kept = b"", [SIGNATURE]
    for kind, chunk in _chunks(data):
        if kind == b"IHDR":
            header = chunk[8:21]
        elif kind in (b"tRNS", b"acTL") or (kind[0:1].isupper() and kind not in (b"IDAT", b"IEND")):
            return encode(decode(data))
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(chunk)
    if len(header) != 13 or len(kept) < 4:
        raise ValueError("not a whole PNG")
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    if depth != 8 or colour not in PLAIN:
        return encode(decode(data))
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}×{height} pixels, the limit is {MAX_PIXELS}")
    return b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk's name and its bytes, length and checksum included, up to the end; what follows is dropped."""
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (len(data), b"")
        if at + 12 + length > len(data):
            raise ValueError("cut off")
        yield kind, data[at : at + 12 + length]
        if kind == b"IEND":
            return
        at += 12 + length
    raise ValueError("cut off")
