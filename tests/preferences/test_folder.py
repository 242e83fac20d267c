"""A folder of pictures by prompt becomes pairs beside it; what cannot be used is told, and the folder left alone."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from rlhf_images import data
from rlhf_images.data import decode, encode
from rlhf_images.errors import BadInput
from rlhf_images.preferences import Event, folder
from rlhf_images.preferences.folder import pairs_of


def png(number: int, side: int = 6, form: str = "PNG") -> bytes:
    return encode(torch.rand(3, side, side, generator=torch.Generator().manual_seed(number)), form)


@pytest.fixture
def drawings(tmp_path) -> Path:
    root = tmp_path / "drawings"
    for number, (prompt, count) in enumerate({"a red fox": 4, "猫 🐈": 3, "a": 2}.items()):
        (root / prompt).mkdir(parents=True)
        for i in range(count):
            form = "JPEG" if i == 0 else "PNG"
            (root / prompt / f"{i}.{form.lower()}").write_bytes(png(10 * number + i, 6 + i, form))
    return root


def files(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def test_pictures_by_folder_become_pairs_of_one_prompt(drawings):
    before = files(drawings)
    pairs = pairs_of(drawings)
    assert files(drawings) == before
    assert pairs.folder == drawings.with_name("drawings-pairs")
    by_prompt = {prompt: [p for p in pairs.pairs if p.prompt == prompt] for prompt in ("a red fox", "猫 🐈", "a")}
    assert {prompt: len(found) for prompt, found in by_prompt.items()} == {"a red fox": 2, "猫 🐈": 2, "a": 1}
    for prompt, found in by_prompt.items():
        shown = {side for pair in found for side in (pair.left, pair.right)}
        assert len(shown) == len(list((drawings / prompt).iterdir()))
        assert all(pair.left != pair.right for pair in found)
        assert all(pairs.pictures[side].prompt == prompt for side in shown)
    assert sum(len({pair.left, pair.right}) for pair in by_prompt["a red fox"]) == 4  # each picture in one pair only
    file = drawings / pairs.pictures[by_prompt["a"][0].left].settings["file"]
    assert torch.equal(pairs.image(by_prompt["a"][0].left), decode(file.read_bytes()))


def test_asked_again_it_is_the_same_round_with_its_votes(drawings, capsys):
    pairs = pairs_of(drawings)
    pairs.store.add([Event("i", "vote", pairs.pairs[0].pair, "ann", "left")])
    (drawings / "a" / "new.png").write_bytes(png(99))
    capsys.readouterr()
    again = pairs_of(drawings)
    assert again.pairs == pairs.pairs
    assert len(again.store.votes()) == 1
    assert "came or went" in capsys.readouterr().out
    assert [pair.pair for pair in pairs_of(pairs.folder).pairs] == [pair.pair for pair in pairs.pairs]


def test_the_same_pictures_elsewhere_are_the_same_round(drawings, tmp_path):
    shutil.copytree(drawings, tmp_path / "elsewhere" / "drawings")
    assert pairs_of(drawings).store.round == pairs_of(tmp_path / "elsewhere" / "drawings").store.round


def test_a_prompt_may_stand_in_a_file(drawings):
    (drawings / "a" / "prompt.txt").write_text("a very long prompt, with / and : in it\n")
    assert pairs_of(drawings).pairs[0].prompt == "a very long prompt, with / and : in it"


def test_pictures_by_metadata(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    rows = []
    for i in range(5):
        (root / f"{i}.webp").write_bytes(png(i, 6, "WEBP"))
        rows.append({"file_name": f"{i}.webp", "text": "one" if i < 2 else "two", "other": 1})
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sorted(pair.prompt for pair in pairs_of(root).pairs) == ["one", "two", "two"]


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_cannot_be_used_is_set_aside_with_its_reason(drawings, monkeypatch, capsys):
    whole = png(50)
    outside = drawings.parent / "outside.png"
    outside.write_bytes(png(51))
    inner = drawings / "a"
    (inner / "cut.png").write_bytes(whole[: len(whole) // 2])
    (inner / "text.png").write_text("not a picture")
    (inner / "empty.png").write_bytes(b"")
    (inner / "bomb.png").write_bytes(bomb())
    (inner / "twice.png").write_bytes((inner / "1.png").read_bytes())
    (inner / "link.png").symlink_to(outside)
    (inner / "notes.txt").write_text("no picture, and not meant as one")
    (inner / ".hidden.png").write_text("")
    (drawings / "lonely").mkdir()
    (drawings / "lonely" / "only.png").write_bytes(whole)
    monkeypatch.setattr(data, "MAX_PIXELS", 1_000_000)
    monkeypatch.setattr(folder, "MAX_BYTES", 15_000)
    (inner / "huge.png").write_bytes(b"x" * 15_001)
    pairs = pairs_of(drawings)
    rows = [json.loads(line) for line in (pairs.folder / "set_aside.jsonl").read_text().splitlines()]
    reasons = {Path(row["file"]).name: row["reason"] for row in rows}
    assert set(reasons) == {
        *(f"{name}.png" for name in ("cut", "text", "empty", "bomb", "twice", "link", "huge")),
        "lonely",
    }
    for name, reason in {
        "text.png": "not a picture",
        "bomb.png": "limit is 1000000",
        "huge.png": "more than 15000 bytes",
        "twice.png": "the same as another",
        "link.png": "out of the folder",
        "lonely": "fewer than two",
    }.items():
        assert reason in reasons[name]
    assert len(pairs.pairs) == 2 + 2 + 1
    assert capsys.readouterr().out.count("set aside: ") == 8
    assert not (pairs.folder / "images" / f"{hashlib.sha256(outside.read_bytes()).hexdigest()}.png").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "x.png"}', "line 2"),
        ("[]", "line 2"),
        ("{", "line 2"),
        ('{"file_name": 5, "text": "a"}', "line 2"),
        ('{"file_name": "x.png", "text": " "}', "line 2: a prompt of 0 characters"),
    ],
)
def test_a_line_that_describes_no_picture_is_named(tmp_path, line, said):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n' + line + "\n")
    with pytest.raises(BadInput, match=said) as raised:
        pairs_of(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "gone.png", "a/../../outside.png"])
def test_metadata_cannot_take_what_lies_outside(tmp_path, name):
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "outside.png").write_bytes(png(9))
    rows = [{"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": "a"}, {"file_name": name, "text": "a"}]
    for i in range(2):
        (root / f"{i}.png").write_bytes(png(i))
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = pairs_of(root)
    assert len(list((pairs.folder / "images").iterdir())) == 2
    assert len((pairs.folder / "set_aside.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("make", ["empty", "flat", "corrupt", "file"])
def test_a_folder_without_two_pictures_of_a_prompt_is_refused_and_leaves_nothing(tmp_path, make):
    root = tmp_path / "set"
    if make == "file":
        root.write_bytes(png(0))
    else:
        root.mkdir()
    if make == "flat":
        (root / "0.png").write_bytes(png(0))
    if make == "corrupt":
        (root / "a").mkdir()
        for i in range(3):
            (root / "a" / f"{i}.png").write_bytes(b"x")
    with pytest.raises(BadInput) as raised:
        pairs_of(root)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_foreign_folder_in_the_way_is_not_written_into(drawings):
    beside = drawings.with_name("drawings-pairs")
    beside.mkdir()
    (beside / "precious.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds something else"):
        pairs_of(drawings)
    assert [path.name for path in beside.iterdir()] == ["precious.txt"]


def test_an_interrupted_taking_in_is_completed(drawings, monkeypatch):
    taken = 0
    whole = folder.decode

    def stopped(content):
        nonlocal taken
        taken += 1
        if taken == 5:
            raise KeyboardInterrupt
        return whole(content)

    monkeypatch.setattr(folder, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        pairs_of(drawings)
    monkeypatch.undo()
    assert len(pairs_of(drawings).pairs) == 5
