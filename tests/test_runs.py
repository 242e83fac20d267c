"""Run records: a folder belongs to one run, and whoever else comes leaves it as it was."""

import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlhf_images import runs
from rlhf_images.errors import BadInput
from rlhf_images.runs import Run, read_record


@dataclass(frozen=True)
class Part:
    rank: int = 4


@dataclass(frozen=True)
class Config:
    steps: int = 3
    part: Part = field(default_factory=Part)
    prompts: tuple[str, ...] = ("a", "ü")
    out: str = "run"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def refused(folder: Path, *arguments, **options) -> str:
    before = contents(folder.parent)
    with pytest.raises(BadInput) as raised:
        Run(*arguments, folder, **options).save()
    assert contents(folder.parent) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_new_run_says_what_was_asked_and_by_what(tmp_path):
    folder = tmp_path / "deep/er/run"
    run = Run("paint", Config(), folder)
    assert not folder.exists()
    run.save(pictures=5)
    record = read_record(folder)
    assert record["stage"] == "paint"
    assert record["config"] == {"steps": 3, "part": {"rank": 4}, "prompts": ["a", "ü"], "out": "run"}
    assert record["finished"] is False
    assert record["pictures"] == 5
    assert record["versions"].keys() == {"python", *runs.PACKAGES}
    assert "not installed" not in record["versions"].values()
    assert record["seconds"] > 0
    assert "command" in record


def test_a_package_that_is_not_there_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr(runs, "PACKAGES", ("torch", "no-such-package"))
    assert runs.versions()["no-such-package"] == "not installed"
    assert runs.versions()["torch"][0].isdigit()


def test_the_same_run_goes_on_and_its_times_add_up(tmp_path):
    Run("paint", Config(), tmp_path / "run").save(pictures=5)
    path = tmp_path / "run/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 1000.0}))
    again = Run("paint", Config(), tmp_path / "run")
    assert not again.finished
    assert 1000 < again.seconds < 1000 + runs.elapsed() + 1
    again.save(finished=True)
    assert Run("paint", Config(), tmp_path / "run").finished
    assert read_record(tmp_path / "run")["pictures"] == 5


def test_another_stage_is_refused(tmp_path):
    Run("paint", Config(), tmp_path / "run").save()
    assert "already holds a 'paint' run" in refused(tmp_path / "run", "sing", Config())


def test_another_config_is_refused_with_the_difference(tmp_path):
    Run("paint", Config(), tmp_path / "run").save()
    message = refused(tmp_path / "run", "paint", Config(steps=4, part=Part(8)))
    assert "already holds another run (part.rank 4→8; steps 3→4)" in message


def test_a_folder_that_moved_or_is_written_otherwise_is_the_same_run(tmp_path):
    Run("paint", Config(), tmp_path / "run").save(finished=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    again = Run("paint", Config(out=f"{tmp_path}/moved/"), tmp_path / "moved")
    assert again.finished
    assert again.record["config"]["out"] == f"{tmp_path}/moved/"
    assert not again.changed


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "folder/deep.txt"])
def test_a_folder_with_something_of_somebody_else_is_refused(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    assert "holds no run of ours" in refused(tmp_path / "run", "paint", Config())


def test_an_empty_folder_and_the_remains_of_a_killed_first_save_are_taken(tmp_path):
    (tmp_path / "run").mkdir()
    Run("paint", Config(), tmp_path / "run")
    (tmp_path / "run/.run.json.1234").write_text('{"stage": "pai')
    Run("paint", Config(), tmp_path / "run").save()
    assert read_record(tmp_path / "run")["stage"] == "paint"


def test_a_file_in_the_way_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BadInput, match="file: is a file"):
        Run("paint", Config(), tmp_path / "file")
    assert "cannot be made" in refused(tmp_path / "file/below", "paint", Config())
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"stage": "paint"}',
        '{"stage": "paint", "config": null, "seconds": 1, "finished": true}',
        '{"stage": "paint", "config": {}, "seconds": "long", "finished": true}',
        "\xff",
    ],
)
def test_an_unreadable_record_is_refused_and_kept(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(text, encoding="latin-1")
    assert "run.json: no" in refused(tmp_path / "run", "paint", Config())


def test_only_the_main_process_writes(tmp_path):
    Run("paint", Config(), tmp_path / "run", writes=False).save(finished=True)
    assert contents(tmp_path) == {}


def git(folder: Path, *arguments: str) -> int:
    me = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *me, *arguments], cwd=folder, capture_output=True, check=False).returncode


def test_the_commit_is_that_of_the_source_tree():
    found = runs.commit()
    if found is None:
        pytest.skip("this source tree is in no git repository")
    assert git(Path(runs.__file__).parent, "cat-file", "-e", f"{found.removesuffix('+')}^{{commit}}") == 0


@pytest.mark.parametrize(("place", "ours"), [("rlhf_images", True), ("lib/rlhf_images", False)])
def test_a_package_installed_inside_another_repository_has_no_commit(tmp_path, monkeypatch, place, ours):
    for name in (place, "reward_models"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "runs.py").write_text("")
    assert git(tmp_path, "init", "-q") == git(tmp_path, "add", ".") == git(tmp_path, "commit", "-qm", "first") == 0
    monkeypatch.setattr(runs, "__file__", str(tmp_path / place / "runs.py"))
    assert (runs.commit() is not None) == ours
    if ours:
        assert not runs.commit().endswith("+")
        (tmp_path / "reward_models/runs.py").write_text("changed")
        assert runs.commit().endswith("+")
