"""TFRecord files without TensorFlow: the framing, and the one message type that data sets put into it.

A file is a sequence of records: length (8 bytes, little endian), its masked CRC-32C (4), the data, the data's CRC (4).
Data is a protobuf ``Example``: a map from names to lists of bytes, floats or integers. The length's checksum is
verified, which finds every file that is no TFRecord or is cut; the data's is not, being slow in Python.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .rows import BadRow

MAX_RECORD = 256 << 20
POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""How a protobuf field is encoded."""


def records(path: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Yield the number of each record, from 1 on, and its features. Raises `ValueError` where the file is damaged."""
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            number += 1
            if len(head) < 12:
                raise ValueError(f"record {number} is cut")
            length, check = struct.unpack("<QI", head)
            if check != _masked(_crc(head[:8])):
                raise ValueError(f"record {number} does not begin as one: not a TFRecord file, or a damaged one")
            if length > MAX_RECORD:
                raise ValueError(f"record {number} has {length} bytes, the limit is {MAX_RECORD}")
            body = file.read(length + 4)
            if len(body) < length + 4:
                raise ValueError(f"record {number} is cut")
            try:
                yield number, example(body[:-4])
            except (BadRow, ValueError, IndexError, struct.error) as error:
                yield number, BadRow(f"not a protobuf Example ({error})")


def example(data: bytes) -> dict[str, Any]:
    """Return the features of an ``Example``; a list of one value is that value."""
    features: dict[str, Any] = {}
    for tag, value in _fields(data):
        if tag != 1 or not isinstance(value, memoryview):
            continue
        for entry_tag, entry in _fields(value):
            if entry_tag == 1 and isinstance(entry, memoryview):
                pair = dict(_fields(entry))
                name, feature = pair.get(1), pair.get(2)
                if isinstance(name, memoryview):
                    found = _feature(feature) if isinstance(feature, memoryview) else []
                    features[bytes(name).decode()] = found[0] if len(found) == 1 else found
    return features


def _feature(data: memoryview) -> list[Any]:
    """Return the values of a ``Feature``: bytes (1), floats (2) or integers (3), packed or not."""
    values: list[Any] = []
    for kind, content in _fields(data):
        if not isinstance(content, memoryview):
            continue
        for tag, value in _fields(content):
            if tag != 1:
                continue
            if kind == 1 and isinstance(value, memoryview):
                values.append(bytes(value))
            elif kind == 2:
                raw = bytes(value) if isinstance(value, memoryview) else struct.pack("<I", value)
                values += struct.unpack(f"<{len(raw) // 4}f", raw)
            elif kind == 3:
                values += _varints(value) if isinstance(value, memoryview) else [_signed(value)]
    return values


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Yield each field's number and value: an integer, or a view of the bytes that it holds."""
    view = memoryview(data)
    place = 0
    while place < len(view):
        key, place = _varint(view, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(view, place)
            yield key >> 3, value
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
            yield key >> 3, struct.unpack_from("<Q" if kind == FIXED64 else "<I", view, place)[0]
            place += size
        elif kind == LENGTH:
            size, place = _varint(view, place)
            if size > len(view) - place:
                raise ValueError("a field is longer than its message")
            yield key >> 3, view[place : place + size]
            place += size
        else:
            raise ValueError(f"a field of unknown kind {kind}")


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """Return the integer at ``place``, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("an integer of more than ten bytes")


def _varints(view: memoryview) -> list[int]:
    values, place = [], 0
    while place < len(view):
        value, place = _varint(view, place)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _crc(data: bytes) -> int:
    """Return the CRC-32C, bit by bit: it is only ever of eight bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """Return a CRC as it is stored: rotated by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
