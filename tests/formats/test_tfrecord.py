"""TFRecord files, written here as TensorFlow writes them: length, masked checksum, a protobuf Example, its checksum."""

import json
import struct

import pairs_for_tests as tool
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_images.errors import BadInput
from rlhf_images.preferences.formats.rows import BadRow
from rlhf_images.preferences.formats.tfrecord import _crc, _masked, records
from rlhf_images.preferences.pairs import Counts


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def feature(value, packed=True) -> bytes:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return field(1, b"".join(field(1, item) for item in values))
    if isinstance(values[0], float):
        floats = [struct.pack("<f", item) for item in values]
        return field(
            2, field(1, b"".join(floats)) if packed else b"".join(varint(1 << 3 | 5) + item for item in floats)
        )
    numbers = [varint(item) for item in values]
    return field(3, field(1, b"".join(numbers)) if packed else b"".join(varint(1 << 3) + item for item in numbers))


def example(values: dict[str, object], packed=True) -> bytes:
    entries = [field(1, field(1, name.encode()) + field(2, feature(value, packed))) for name, value in values.items()]
    return field(1, b"".join(entries))


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(_crc(length))) + data + struct.pack("<I", _masked(_crc(data)))


def test_the_checksum_is_castagnolis():
    assert _crc(b"123456789") == 0xE3069283  # the check value of its catalogue
    assert _masked(_crc(b"")) == 0xA282EAD8


@pytest.mark.parametrize("packed", [True, False])
def test_values_of_every_kind_are_read(tmp_path, packed):
    values = {"f": 0.5, "g": [0.25, -2.0], "i": -7, "j": [1, 2**40], "b": b"\0\xff", "c": [b"x", b""]}
    (tmp_path / "a.tfrecord").write_bytes(framed(example(values, packed)) + framed(example({})))
    assert list(records(tmp_path / "a.tfrecord")) == [(1, values), (2, {})]


@tool.fuzz(150)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_loses_a_record(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "a.tfrecord"
    content = bytearray(b"".join(framed(example({"f": float(n), "b": b"abc"})) for n in range(3)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        found = list(records(path))
    except ValueError:
        return
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert all(isinstance(row, dict | BadRow) for _, row in found)


def test_a_length_that_lies_is_refused_before_it_is_read(tmp_path):
    length = struct.pack("<Q", 1 << 50)
    (tmp_path / "a.tfrecord").write_bytes(length + struct.pack("<I", _masked(_crc(length))) + b"short")
    with pytest.raises(ValueError, match="the limit is"):
        list(records(tmp_path / "a.tfrecord"))


def scored(name: str, overall: float, **more) -> bytes:
    told = {
        "filename": name.encode(),
        "overall_score": overall,
        "aesthetics_score": 1 - overall,
        "artifact_map": b"\0" * 99,
    }
    return framed(example({**told, **more}))


def test_richhf_becomes_pairs_of_one_caption(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    files = [scored("train/u0.png", 0.25), scored("train/u1.png", 0.75), scored("train/u2.png", 0.5)]
    (source / "train.tfrecord").write_bytes(b"".join(files) + scored("train/u3.png", 0.5) + framed(b"\xff\xff"))
    captions = {"train/u0.png": "a cat", "train/u1.png": "a cat", "train/u2.png": "a dog"}
    rows = [{"filename": name, "caption": caption} for name, caption in captions.items()]
    (source / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "images/train").mkdir(parents=True)
    for number in range(4):
        (tmp_path / f"images/train/u{number}.png").write_bytes(tool.picture(number))
    pairs = tool.taken("richhf", source, tmp_path / "pairs", images=str(tmp_path / "images"))
    assert [(pair.prompt, pair.counts, pair.criterion) for pair in pairs.pairs] == [
        ("a cat", Counts(right=1.0), "overall")
    ]
    reasons = (tmp_path / "pairs/set_aside.jsonl").read_text()
    for reason in (
        "no caption of 'train/u3.png'",
        "train.tfrecord row 5",
        "not a protobuf Example",
        "nothing to compare",
    ):
        assert reason in reasons
    other = tool.taken("richhf", source, tmp_path / "other", images=str(tmp_path / "images"), criterion="aesthetics")
    assert [pair.counts for pair in other.pairs] == [Counts(left=1.0)]


def test_what_is_no_tfrecord_is_told(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"\x89PNG is no record, that is clear")
    with pytest.raises(BadInput, match=r"a\.tfrecord.*not a TFRecord file"):
        tool.taken("richhf", tmp_path / "a.tfrecord", tmp_path / "pairs")
