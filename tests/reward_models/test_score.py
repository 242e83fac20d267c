"""``rlhf-images score``: what is printed of pictures, and what is said of those that have no score."""

import json
import shutil

import pytest
import torch

from reward_models.head import Head
from rlhf_images.cli import run
from rlhf_images.data import DIGIT_CAPTIONS, decode, digits, encode


@pytest.fixture
def pictures(tmp_path):
    images, _ = digits(16)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encode(images[i]))
    return tmp_path


def test_score_std_percentile_and_chance(trained_head, pictures, capsys):
    assert run(["score", str(trained_head), str(pictures), "--prompt", DIGIT_CAPTIONS[0], "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    head = Head.load(trained_head)
    images = torch.stack([decode((pictures / f"{i}.png").read_bytes()) for i in range(3)])
    scores = head.score(images=images, prompts=DIGIT_CAPTIONS[:1] * 3)
    for i, row in enumerate(rows):
        assert row["image"].endswith(f"{i}.png")
        assert row["score"] == pytest.approx(float(scores.mean[i]), abs=1e-5)
        assert row["std"] == pytest.approx(float(scores.std[i]), abs=1e-5)
        below = float((head.reference <= scores.mean[i]).float().mean())
        assert row["percentile"] == pytest.approx(100 * below, abs=1e-3)
        assert row["preferred"] == pytest.approx(float(torch.sigmoid(scores.mean[i] - head.reference).mean()), abs=1e-5)


def test_a_table_for_a_person_and_only_what_is_known(trained_head, pictures, capsys):
    assert run(["score", str(trained_head), str(pictures / "0.png")]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert [*head.split()] == ["score", "std", "percentile", "P(preferred)", "picture"]
    assert row.endswith("0.png")
    assert "±" in row
    assert run(["score", "brightness", str(pictures / "0.png")]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["score", "picture"]


def test_failures_are_named_and_the_others_scored(trained_head, pictures, capsys):
    (pictures / "3.png").write_bytes(b"not a picture")
    assert run(["score", str(trained_head), str(pictures), str(pictures / "none.png")]) == 4
    told = capsys.readouterr()
    lines = told.out.splitlines()[1:]
    assert ["FAILED" in line for line in lines] == [False, False, False, True, True]
    assert "not a picture" in lines[3]
    assert lines[4].endswith("none.png  FAILED: no such file")
    assert "without a score: 2 of 5" in told.err
    assert "--prompt" not in told.err


def test_a_reward_that_goes_by_prompts_says_what_it_lacks(pictures, capsys):
    assert run(["score", "legibility", str(pictures)]) == 4
    assert "no --prompt was given" in capsys.readouterr().err
    assert run(["score", "legibility", str(pictures), "--prompt", "a dragon"]) == 4
    assert "no --prompt was given" not in capsys.readouterr().err


def test_an_empty_name_is_not_the_current_folder(pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures)
    for arguments in (["brightness", ""], ["", "0.png"], ["brightness", "0.png", " "]):
        assert run(["score", *arguments]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "empty" in told.err


def test_the_parts_of_a_score_are_shown(pictures, capsys):
    assert run(["score", "rewards_for_tests:Parted", str(pictures), "--prompt", "x", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row["components"]) for row in rows] == [{"red", "a longer name"}] * 3
    assert run(["score", "rewards_for_tests:Parted", str(pictures), "--prompt", "x"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["score", "red", "a", "longer", "name", "picture"]
    for row, line in zip(rows, lines, strict=True):
        assert line.split()[1:3] == [f"{row['components'][name]:.4g}" for name in ("red", "a longer name")]


def test_prompts_are_one_a_picture(pictures, capsys, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(DIGIT_CAPTIONS[:3]) + "\n")
    assert run(["score", "legibility", str(pictures), "--prompts", str(file)]) == 0
    rows = file.with_suffix(".jsonl")
    rows.write_text("".join(json.dumps({"prompt": caption}) + "\n" for caption in DIGIT_CAPTIONS[:3]))
    told = capsys.readouterr().out
    assert run(["score", "legibility", str(pictures), "--prompts", str(rows)]) == 0
    assert capsys.readouterr().out == told  # and not the scores of three lines of JSON
    for text, says in (("one\n", "1 prompts for 3 pictures"), (None, "no such prompt file")):
        file.unlink() if text is None else file.write_text(text)
        assert run(["score", "legibility", str(pictures), "--prompts", str(file)]) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["score", "legibility", str(tmp_path / "empty")]) == 2
    assert "no pictures" in capsys.readouterr().err


def test_the_pictures_of_a_prompt_are_a_group(pictures, capsys):
    assert run(["score", "diversity", str(pictures), "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_reward_is_on_the_gpu_if_there_is_one(votes, pictures, tmp_path, capsys):
    placed, pool = "rewards_for_tests:Placed", shutil.copytree(votes, tmp_path / "pool")
    assert run(["score", placed, str(pictures)]) == 0
    assert run(["label", str(pool), "--scripted", placed]) == 0
    assert run(["choose", str(pool), str(tmp_path / "chosen"), "--count", "3", "--doubts-of", placed]) == 0
