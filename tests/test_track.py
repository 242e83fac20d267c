"""What a run leaves to look at: rows that survive a crash, and a grid with the right picture in the right place."""

import json
import math

import torch

from rlhf_images.data import decode
from rlhf_images.track import Log, read_rows, save_grid


def test_rows_come_back_in_order(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    assert log.rows() == []
    rows = [{"step": step, "reward": step / 7, "text": "ü\u2028"} for step in range(1, 5)]
    for row in rows:
        log.add(row)
        assert json.loads((tmp_path / "a.jsonl").read_text().split("\n")[-2]) == row
    assert log.rows() == read_rows(tmp_path / "a.jsonl") == rows


def test_of_a_long_log_few_rows_are_read_and_what_never_changed_among_them_never_did(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    for step in range(1, 1001):
        log.add({"step": step, "failures": float(step == 499), "same": 0.5, "noise": step / 7})
    (tmp_path / "a.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes() + b'{"step": 10')
    found = read_rows(tmp_path / "a.jsonl", 11)
    steps = [row["step"] for row in found]
    assert steps == sorted({1, 2, *range(101, 1000, 100), 499} - {1001})
    assert {row["same"] for row in found} == {0.5}
    assert {row["failures"] for row in found} == {0.0, 1.0}
    assert read_rows(tmp_path / "a.jsonl", 2000) == log.rows()
    assert len(log.rows()) == 1000


def test_a_number_that_is_not_finite_is_null(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.add({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5})
    assert log.rows() == [{"step": 1, "a": None, "b": None, "c": None, "d": 0.5}]


def test_rewinding_forgets_what_came_after_the_checkpoint(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.rewind(3)
    assert not (tmp_path / "a.jsonl").exists()
    for step in range(8):
        log.add({"step": step})
    log.rewind(5)
    assert [row["step"] for row in log.rows()] == [0, 1, 2, 3, 4, 5]
    log.rewind(5)
    log.add({"step": 6})
    assert [row["step"] for row in log.rows()] == [0, 1, 2, 3, 4, 5, 6]


def test_a_row_that_a_crash_cut_anywhere_is_dropped_and_the_rest_stays(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    for step in range(1, 4):
        log.add({"step": step, "reward": 0.25})
    whole = (tmp_path / "a.jsonl").read_bytes()
    start = whole.rindex(b"{")
    for end in range(start, len(whole)):
        (tmp_path / "a.jsonl").write_bytes(whole[:end])
        assert [row["step"] for row in log.rows()][:2] == [1, 2]
        log.rewind(2)
        log.add({"step": 3, "reward": 0.25})
        assert (tmp_path / "a.jsonl").read_bytes() == whole


def test_only_the_main_process_writes(tmp_path):
    log = Log(tmp_path / "a.jsonl", writes=False)
    log.add({"step": 1})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.jsonl").write_text('{"step": 9}\n')
    log.rewind(0)
    assert log.rows() == [{"step": 9}]


def test_a_grid_has_a_row_a_prompt_and_black_where_there_is_no_picture(tmp_path):
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    save_grid(tmp_path / "samples/grid.png", images, ["b", "a", "b", "b", "a", "b"], columns=3)
    grid = decode((tmp_path / "samples/grid.png").read_bytes())
    assert grid.shape == (3, 8, 15)
    black = torch.zeros(3, 4, 5)
    expected = torch.cat([torch.cat(row, 2) for row in ([*images[[0, 2, 3]]], [images[1], images[4], black])], 1)
    assert (grid - expected).abs().max() < 0.5 / 255 + 1e-6
