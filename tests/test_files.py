"""Files: a crash or a full disk leaves the old one or the new one, whole."""

import errno
import os

import pytest

from rlhf_images.files import write_atomically, write_json


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path):
    for data in (b"", b"old", b"new" * 100_000):
        write_atomically(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch, operation, error):
    write_atomically(tmp_path / "file", b"old")

    def fails(*arguments):
        raise error

    monkeypatch.setattr(os, operation, fails)
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_contents_are_on_disk_before_the_name_stands_for_them(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (order.append(name), real(*args)))
    write_atomically(tmp_path / "file", b"new")
    assert order == ["fsync", "replace", "fsync"]  # the last for the folder


def test_json_is_readable_and_knows_no_nan(tmp_path):
    write_json(tmp_path / "file", {"a": "ü", "b": [1, None]})
    assert (tmp_path / "file").read_text(encoding="utf-8") == '{\n  "a": "ü",\n  "b": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", float("nan"))
    assert (tmp_path / "file").read_text(encoding="utf-8").startswith("{")
