"""Pushing to the hub: against a small server on loopback that speaks the hub's protocol, never the network."""

import pairs_for_tests as tool
import pytest
from hub_for_tests import TOKEN, hub_of, run_against

from rlhf_images.cli import run
from rlhf_images.preferences import Event, PreferencePair


@pytest.fixture
def hub():
    with hub_of("dataset") as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    cast = [Event("1", "vote", "000000", "ann@example.org", "left"), Event("2", "vote", "000001", "bob", "tie")]
    pairs = [PreferencePair("000000", "a cat", "0", "1"), PreferencePair("000001", "a dog", "2", "3")]
    return tool.made(tmp_path / "pairs", pairs, cast).folder


def pushed(folder, out, endpoint, *more, token=TOKEN):
    command = ["export-pairs", "--format", "trl", str(folder), str(out), "--push-to-hub", "someone/picks", *more]
    return run_against(endpoint, command, out.parent / "home", token)


def contents(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_hub_gets_the_very_files_in_a_private_data_set(hub, folder, tmp_path):
    ended = pushed(folder, tmp_path / "out", hub.url, "--names", "show")
    assert ended.returncode == 0, ended.stderr
    assert f"pushed to {hub.url}/datasets/someone/picks" in ended.stdout
    assert hub.files == contents(tmp_path / "out")
    assert set(hub.files) == {"README.md", "data/train-00000.parquet", "ties/ties-00000.parquet"}
    assert b"ann@example.org" in b"".join(hub.files.values())
    (created,) = hub.created
    assert (created["name"], created["organization"], created["type"]) == ("picks", "someone", "dataset")
    assert created["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_hub_that_refuses_leaves_the_export_whole_and_says_how_to_go_on(hub, folder, tmp_path):
    ended = pushed(folder, tmp_path / "out", hub.url, token="hf_wrong")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("rlhf-images: someone/picks: could not be pushed (")
    assert f"hf upload someone/picks {tmp_path / 'out'} --repo-type dataset" in ended.stderr
    assert not hub.files
    ours = contents(tmp_path / "out")
    assert set(ours) == {"README.md", "data/train-00000.parquet", "ties/ties-00000.parquet"}
    assert b"ann@example.org" not in b"".join(ours.values())  # to be pushed: people are numbered unless asked otherwise
    assert b"annotator-1" in b"".join(ours.values())


@pytest.mark.parametrize("repository", ["someone/picks", "no/such/name", ".."])
def test_what_cannot_be_pushed_ends_in_one_line(folder, tmp_path, capsys, repository):
    """The tests run with the hub's client offline; an impossible name is refused before that."""
    command = ["export-pairs", "--format", "trl", str(folder), str(tmp_path / "out"), "--push-to-hub", repository]
    assert run(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"rlhf-images: {repository}: could not be pushed (")
    assert told.count("\n") == 1
    assert (tmp_path / "out/data/train-00000.parquet").is_file()
