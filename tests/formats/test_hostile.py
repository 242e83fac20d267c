"""Rows and files that are wrong, or mean harm: each is named with its number and reason, and the good ones go in."""

import base64
import json
import os
import struct
import zlib
from pathlib import Path

import pairs_for_tests as tool
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import TABLES

from rlhf_images.errors import BadInput
from rlhf_images.preferences import Pairs
from rlhf_images.preferences.formats import IMPORTERS
from rlhf_images.preferences.formats.rows import BadRow, Reference, Row
from rlhf_images.preferences.formats.shelf import Shelf

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["", "left", "0.png", "../0.png", "/etc/passwd", "https://x.y/0.png", "\ud800", "9" * 400,
                       10**400, -1, 0.5, "data:image/png;base64,AAAA", "data:,", "nan", "a\0b"])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw, value):
    """``value`` with some of what is in it exchanged for anything, or left out."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        return {key: draw(damaged(inner)) for key, inner in value.items() if draw(st.integers(0, 9))}
    if isinstance(value, list):
        return [draw(damaged(inner)) for inner in value]
    return value


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        (folder / f"{number}.png").write_bytes(tool.picture(number))
    return folder


@pytest.mark.parametrize("name", sorted(TABLES))
@tool.fuzz(40)
@given(data=st.data())
def test_no_row_crashes_an_importer(name, data):
    """The layout's own part: from rows, which may hold anything, to pairs."""
    rows = [data.draw(damaged(row)) for row in TABLES[name]("a", "1.png", "0.png")]
    group = tuple(Row("table.jsonl", number, row) for number, row in enumerate(rows, 1) if isinstance(row, dict))
    if group:
        found, reason = [], "good"
        try:
            found = list(IMPORTERS[name].pairs(group))
        except BadRow as error:
            reason = str(error)
        assert 0 < len(reason) < 2000
        for compared in found:
            assert 0 < compared.weight < float("inf")
            assert 0 <= compared.counts.total < float("inf")
            compared.prompt.encode()


@pytest.mark.parametrize("name", sorted(TABLES))
@tool.fuzz(5)
@given(data=st.data())
def test_bad_rows_are_named_and_the_good_ones_go_in(name, data, pictures, tmp_path_factory):
    """The whole way: a table of damaged rows with a good one at the end."""
    folder = tmp_path_factory.mktemp("fuzz")
    bad = [data.draw(damaged(row)) for row in TABLES[name]("spoilt", "1.png", "0.png") * 2]
    good = TABLES[name]("good", "3.png", "2.png")
    text = "".join(json.dumps(row) + "\n" for row in bad)
    text += data.draw(st.sampled_from(["", "{\n", "[1]\n", "\xff\n", '{"a": NaN}\n', "[" * 100000 + "\n", "\n\n"]))
    lines = text.count("\n")
    lasting = "".join(json.dumps(row) + "\n" for row in good)
    (folder / "table.jsonl").write_bytes(text.encode("latin-1", "replace") + lasting.encode())
    pairs = tool.taken(name, folder / "table.jsonl", folder / "pairs", images=str(pictures))
    mine = [one for one in pairs.labelled() if one.pair.prompt == "good"] or pairs.labelled()[-1:]
    assert mine[0].preference != 0.5
    aside = folder / "pairs/set_aside.jsonl"
    for line in aside.read_text().splitlines() if aside.exists() else []:
        told = json.loads(line)
        assert told["row"].startswith("table.jsonl row ")
        assert int(told["row"].split()[2]) <= lines
        assert told["reason"]
    assert Pairs(folder / "pairs").unreadable(pairs.pairs) == {}


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet", "tfrecord", "db"])
@tool.fuzz(20)
@given(content=st.binary(max_size=200) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_as_a_file_end_in_one_line(form, content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / f"table.{form}").write_bytes(content)
    name = {"tfrecord": "richhf", "db": "color-sets"}.get(form, "pairs")
    with pytest.raises(BadInput) as raised:
        tool.taken(name, folder / f"table.{form}", folder / "pairs")
    assert "table" in str(raised.value)
    assert not (folder / "pairs").exists()


@tool.fuzz(40)
@given(data=st.data())
def test_a_spoilt_parquet_file_ends_in_one_line_or_in_good_rows(data, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    rows = [row for n in range(4) for row in TABLES["pairs"](f"p{n}", "1.png", "0.png")]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet", compression="none")
    content = bytearray((folder / "whole.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "table.parquet").write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    reason = "table.parquet"
    try:
        tool.taken("pairs", folder / "table.parquet", folder / "pairs", images=str(pictures))
    except BadInput as error:
        reason = str(error)
    assert "table.parquet" in reason


def bomb(side: int) -> bytes:
    """Return a small PNG of side × side black pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeezer = zlib.compressobj(9)
    rows = b"".join(squeezer.compress(bytes(side // 8 + 1)) for _ in range(side)) + squeezer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def shelf(tmp_path):
    """A folder with a picture, beside secrets that no name may reach, though they are pictures, too."""
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for place in ("in/0.png", "in/sub/0.png", "out/secret.png", "secret.png"):
        (tmp_path / place).write_bytes(tool.picture(0))
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in/door").symlink_to(tmp_path / "out")
    (tmp_path / "in/inner.png").symlink_to(tmp_path / "in/0.png")
    (tmp_path / "in/loop.png").symlink_to(tmp_path / "in/loop.png")
    os.mkfifo(tmp_path / "in/pipe.png")
    return tmp_path


def read(shelf: Path, name, images=None):
    return Shelf(shelf / "in", images and shelf / images).read(Reference(name, Row("t", 1, {})))[1]


@pytest.mark.parametrize("images", [None, "in"])
@pytest.mark.parametrize(
    "name",
    [
        "../secret.png", "sub/../../secret.png", "..\\secret.png", "./../secret.png", "link.png", "door/secret.png",
        "loop.png", "pipe.png", "sub", "0.png\0.txt", "", ".", "/", "//", "x" * 5000, "file:///secret.png",
        "https://example.org/../secret.png", "https://example.org/%2e%2e/secret.png",
        "/data/local-files/?d=../secret.png",
        "https://[", "data:image/png,abc", "data:image/png;base64,&&&", 5, None, [], {"path": "../secret.png"},
        {"bytes": "text"}, {"path": None, "bytes": None}, True, b"", b"no picture",
    ],
)  # fmt: skip
def test_no_name_leads_out_and_no_oddity_crashes(shelf, name, images):
    with pytest.raises(BadRow):
        read(shelf, name, images)


def test_absolute_names_are_looked_for_below_images_only(shelf):
    with pytest.raises(BadRow, match="is a URL"):
        read(shelf, str(shelf / "secret.png"))
    with pytest.raises(BadRow, match="no picture"):
        read(shelf, str(shelf / "secret.png"), "in")
    assert read(shelf, "/etc/0.png", "in") == tool.picture(0)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("0.png", None), ("./0.png", None), ("0.png/", None), ("sub/0.png", None), ("sub\\0.png", None),
        ("inner.png", None), ("0", None),
        ("far/away/sub/0.png", "in"), ("https://example.org/a/b/0.png?x=1#y", "in"), ("s3://bucket/sub/0.png", "in"),
        ("/data/local-files/?d=sub/0.png", "in"), ({"path": "0.png", "bytes": None}, None), (tool.picture(0), None),
        ({"path": "nowhere.png", "bytes": tool.picture(0)}, None),
        ("data:image/png;base64," + base64.b64encode(tool.picture(0)).decode(), None),
    ],
)  # fmt: skip
def test_honest_names_find_their_picture(shelf, name, images):
    assert read(shelf, name, images) == tool.picture(0)


def test_a_url_is_not_fetched_and_the_reason_says_what_to_do(shelf):
    with pytest.raises(BadRow, match=r"nothing is fetched; give .* --images"):
        read(shelf, "http://127.0.0.1:9/0.png")


def test_a_bomb_is_refused_before_it_is_unpacked(shelf):
    for side, reason in ((9000, "9000×9000 pixels, the limit is"), (30000, "decompression bomb")):
        data = bomb(side)
        assert len(data) < 200_000
        with pytest.raises(BadRow, match=reason):
            read(shelf, data)


def test_tables_reached_through_links_are_not_read(shelf):
    (shelf / "out/rows.jsonl").write_text(json.dumps(TABLES["trl"]("a", "0.png", "0.png")[0]) + "\n")
    (shelf / "in/linked.jsonl").symlink_to(shelf / "out/rows.jsonl")
    with pytest.raises(BadInput, match="no table in it"):
        tool.taken("trl", shelf / "in", shelf / "pairs")


def test_a_prompt_may_be_long_but_not_endless(shelf):
    (shelf / "in/1.png").write_bytes(tool.picture(1))
    rows = [TABLES["trl"](prompt, "0.png", "1.png")[0] for prompt in ("x" * 10_000, "x" * 10_001)]
    (shelf / "in/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [len(pair.prompt) for pair in tool.taken("trl", shelf / "in/rows.jsonl", shelf / "pairs").pairs] == [10_000]
    assert "10001 characters" in (shelf / "pairs/set_aside.jsonl").read_text()


def test_huge_groups_are_refused_not_squared(shelf):
    rows = [{"prompt": "a", "image": f"{n}.png", "rating": n} for n in range(101)]
    (shelf / "in/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match="101 pictures of one prompt, the limit is 100"):
        tool.taken("ratings", shelf / "in/rows.jsonl", shelf / "pairs")
