"""What a person sees: a bar on a terminal, a few plain lines in a file, nothing from the other processes."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from rlhf_images.progress import progress, say


@pytest.fixture
def slow(monkeypatch):
    """A clock on which every look takes a second; only of the bar: by the true one, servers of other tests wait."""
    now = iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr("rlhf_images.progress.time", clock)


@pytest.mark.parametrize("count", [1, 7, 10, 25, 1000])
def test_a_file_gets_about_ten_plain_lines_and_the_last_is_the_end(slow, capsys, count):
    assert list(progress(range(count), "work")) == list(range(count))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) <= 11
    assert all(re.fullmatch(rf"work: \d+/{count}, \d+ s, \d+ s left", line) for line in lines)
    if count >= 3:
        assert lines[-1].startswith(f"work: {count}/{count}, ")
        assert lines[-1].endswith(" 0 s left")
    if count == 1000:
        assert len(lines) == 10
        done, spent, left = map(int, re.findall(r"work: (\d+)/1000, (\d+) s, (\d+) s left", lines[4])[0])
        assert (spent, left) == (done, 1000 - done)


def test_work_that_is_done_at_once_needs_no_line(capsys):
    assert list(progress("abc", "work")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_what_was_done_before_counts_but_not_as_speed(slow, capsys):
    note = {}
    for step in progress(range(80, 100), "work", 100, 80, note):
        note["loss"] = f"{step / 100}"
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["work: 90/100, 10 s, 10 s left loss=0.89", "work: 100/100, 20 s, 0 s left loss=0.99"]


def test_without_a_total_there_is_no_guess(slow, capsys):
    assert list(progress(iter(range(50)), "work")) == list(range(50))
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    note = {"loss": "0.5"}
    assert list(progress(range(3), "work", note=note)) == [0, 1, 2]
    shown = sys.stderr.getvalue()
    assert "work" in shown
    assert "3/3" in shown


def test_other_processes_work_in_silence(slow, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(20), "work")) == list(range(20))
    say("hello")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    say("hello")
    assert capsys.readouterr() == ("hello\n", "")
