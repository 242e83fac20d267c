"""Taking in beside what is there: twice is once, nothing is lost, and what cannot be used is told with its row."""

import json

import pairs_for_tests as tool
import pytest
from layouts import TABLES

from rlhf_images.cli import run
from rlhf_images.errors import BadInput
from rlhf_images.preferences import Event, Pairs, PreferencePair
from rlhf_images.preferences.pairs import Counts

ROWS = [
    {"prompt": "a", "left": "0.png", "right": "1.png", "choice": "left", "annotator": "ann"},
    {"prompt": "a", "left": "2.png", "right": "3.png", "choice": "tie", "annotator": "ann"},
    {"prompt": "b", "left": "0.png", "right": "1.png", "choice": "right"},
]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(tool.picture(number))
    write(folder, ROWS)
    return folder


def write(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def content(folder):
    """Return every file's bytes, but for the database, whose events are compared instead."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "votes.db"}


@pytest.mark.parametrize("name", ["pairs", "hpdv3", "rankings", "richhf", "color-sets"])
def test_taking_the_same_in_twice_changes_nothing(source, tmp_path, name):
    write(source, TABLES[name]("a", "0.png", "1.png") + TABLES[name]("b", "2.png", "3.png"))
    first = tool.taken(name, source, tmp_path / "pairs")
    before, events, said = content(first.folder), first.store.events(), tool.said(first)
    again = tool.taken(name, source, tmp_path / "pairs")
    assert content(again.folder) == before
    assert again.store.events() == events
    assert tool.said(again) == said


def test_what_was_there_stays_when_more_comes(source, tmp_path):
    pair = PreferencePair("000000", "a", "0", "1", counts=Counts(tie=3.0))
    cast = [
        Event("1", "vote", "000000", "ann", "right", ms=700),
        Event("2", "undo", "000000", "ann", undoes="1"),
        Event("3", "vote", "000000", "bob", "both_bad"),
        Event("4", "flag", "000000", "bob", text="odd"),
    ]
    before = tool.made(tmp_path / "pairs", [pair], cast)
    events = before.store.events()
    after = tool.taken("pairs", source, tmp_path / "pairs")
    assert after.store.events()[:4] == events  # when they happened, too
    assert after.pairs[0] == before.pairs[0]
    assert before.pictures.items() <= after.pictures.items()
    (first,) = [one for one in after.labelled() if one.pair.pair == "000000"]
    assert (first.left, first.right, first.tie, first.both_bad) == (1, 0, 3, 1)
    assert len(after.pairs) == 3


def test_nameless_votes_of_another_source_are_not_mixed_in(source, tmp_path, capsys):
    """They cannot be told apart from the same ones taken in again, so the first ones stay."""
    row = {"prompt": "a", "left": "0.png", "right": "1.png", "choice": "left"}
    write(source, [row])
    tool.taken("pairs", source, tmp_path / "pairs")
    write(source, [row, row, {**row, "prompt": "b"}])
    after = tool.taken("pairs", source, tmp_path / "pairs")
    assert [pair.counts for pair in after.pairs] == [Counts(left=1.0), Counts(left=1.0)]
    assert "it has other nameless votes here already" in tool.lines(capsys)


def test_an_interrupted_import_is_completed_by_the_same_command(source, tmp_path, monkeypatch):
    import rlhf_images.preferences.formats.importing as importing

    whole = tool.taken("pairs", source, tmp_path / "whole")
    old = [PreferencePair("000000", "z", "0", "1")]
    tool.made(tmp_path / "pairs", old, [Event("1", "skip", "000000", "ann")], pictures=2)
    written = importing.write_atomically
    for failing in range(20):
        calls = iter(range(100))

        def dies(path, data, sync=True, failing=failing, calls=calls):
            if next(calls) == failing:
                raise KeyboardInterrupt
            written(path, data, sync)

        monkeypatch.setattr(importing, "write_atomically", dies)
        try:
            tool.taken("pairs", source, tmp_path / "pairs")
        except KeyboardInterrupt:
            here = Pairs(tmp_path / "pairs")
            assert [pair.prompt for pair in here.pairs] == ["z"]  # the old list, whole, with what happened on it
            assert [event.id for event in here.store.events()] == ["1"]
            continue
        break
    assert failing > 2
    done = Pairs(tmp_path / "pairs")
    assert tool.said(done) == tool.said(whole)
    assert len(done.store.events()) == 1 + len(whole.store.events())


def test_it_waits_for_those_who_label_now(source, tmp_path):
    pairs = tool.made(
        tmp_path / "pairs", [PreferencePair("000000", "z", "0", "1")], [Event("1", "skip", "000000", "x")]
    )
    with pairs.store.writing() as writing:
        writing.lease("ann", ["000000"], 60)
    before = content(pairs.folder)
    with pytest.raises(BadInput, match="somebody is labelling it now"):
        tool.taken("pairs", source, tmp_path / "pairs")
    assert {name: content(pairs.folder)[name] for name in before} == before


def test_a_folder_of_something_else_is_refused(source, tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/run.json").write_text("{}")
    with pytest.raises(BadInput, match="holds files but no pairs"):
        tool.taken("pairs", source, tmp_path / "pairs")
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["run.json"]


def test_ids_of_two_folders_that_mean_different_pairs_do_not_collide(tmp_path):
    for name, prompt in (("one", "a"), ("two", "b")):
        pairs = [PreferencePair("000000", prompt, "0", "1")]
        tool.made(tmp_path / name, pairs, [Event(f"{name} 1", "vote", "000000", "ann", "left")])
        tool.given("events", tmp_path / name, tmp_path / f"{name} out")
        tool.taken("events", tmp_path / f"{name} out", tmp_path / "both")
    both = Pairs(tmp_path / "both")
    assert len({pair.pair for pair in both.pairs}) == 2
    assert {(one.pair.prompt, one.left) for one in both.labelled()} == {("a", 1), ("b", 1)}
    tool.taken("events", tmp_path / "two out", tmp_path / "both")  # finds its pair again under the new id
    assert len(Pairs(tmp_path / "both").pairs) == 2
    assert len(Pairs(tmp_path / "both").store.events()) == 2


def test_a_missing_picture_costs_its_pairs_only(source, tmp_path, capsys):
    (source / "3.png").unlink()
    (source / "2.png").write_bytes(b"no picture")
    write(source, [{"prompt": "a", "images": [f"{n}.png" for n in range(5)], "ranking": [1, 2, 3, 4, 5]}])
    pairs = tool.taken("rankings", source, tmp_path / "pairs")
    assert len(pairs.pairs) == 3  # of 0, 1 and 4
    assert {pair.weight for pair in pairs.pairs} == {1 / 10}
    aside = [json.loads(line) for line in (tmp_path / "pairs/set_aside.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"].split(";")[0]) for row in aside] == [
        ("rows.jsonl row 1", "2.png: not a picture in a format that is read"),
        ("rows.jsonl row 1", "no picture '3.png'"),
    ]
    assert tool.lines(capsys).count("set aside: rows.jsonl row 1") == 2


def test_each_picture_of_a_group_is_told_with_its_own_row(source, tmp_path):
    (source / "1.png").unlink()
    write(source, [{"prompt": "a", "image": f"{n}.png", "rating": n} for n in range(4)])
    tool.taken("ratings", source, tmp_path / "pairs")
    (line,) = (tmp_path / "pairs/set_aside.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == "rows.jsonl row 2"


def test_no_pictures_at_all_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(BadInput, match=r"no pair in it can be used.*rows\.jsonl row 1: no picture '0\.png'.*--images"):
        tool.taken("pairs", tmp_path / "rows.jsonl", tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_pictures_elsewhere_are_found_with_images(source, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pairs = tool.taken("pairs", tmp_path / "rows.jsonl", tmp_path / "pairs", images=str(source))
    assert len(pairs.pairs) == 3
    with pytest.raises(BadInput, match="no such folder"):
        tool.taken("pairs", tmp_path / "rows.jsonl", tmp_path / "other", images=str(tmp_path / "nowhere"))


def test_two_equal_pictures_are_nothing_to_compare(source, tmp_path):
    write(source, [{**ROWS[0], "right": "0.png"}, ROWS[1]])
    assert len(tool.taken("pairs", source, tmp_path / "pairs").pairs) == 1
    assert "both pictures are the same" in (tmp_path / "pairs/set_aside.jsonl").read_text()


def test_a_bad_event_is_left_out_and_the_rest_goes_in(tmp_path):
    tool.made(
        tmp_path / "pairs", [PreferencePair("000000", "a", "0", "1")], [Event("1", "vote", "000000", "ann", "left")]
    )
    out = tool.given("events", tmp_path / "pairs", tmp_path / "out")
    good = json.loads((out / "events.jsonl").read_text())
    bad = [
        {**good, "id": "2", "choice": "middle"},
        {**good, "id": "3", "type": "undo", "choice": None, "undoes": "nobody's"},
        {**good, "id": "4", "strength": 9},
        {**good, "id": "5", "evil": 1},
        {**good, "id": "6", "text": "\0"},
        {"pair": "000000"},
    ]
    with (out / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in bad)
    after = tool.taken("events", out, tmp_path / "after")
    assert [event.id for event in after.store.events()] == ["1"]
    aside = [json.loads(line) for line in (tmp_path / "after/set_aside.jsonl").read_text().splitlines()]
    assert [row["row"] for row in aside] == [*(f"events.jsonl row {n}" for n in (2, 4, 5, 6, 7)), "event 3"]


def test_the_commands_say_what_they_did_and_how_to_go_on(source, tmp_path, capsys):
    assert run(["import-pairs", "--format", "pairs", str(source), str(tmp_path / "pairs")]) == 0
    assert "3 new pairs of 3, 2 votes of named annotators, 1 of unknown ones, 0 set aside" in tool.lines(capsys)
    assert run(["export-pairs", "--format", "trl", str(tmp_path / "pairs"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/README.md").is_file()
    assert run(["export-pairs", "--format", "trl", str(tmp_path / "pairs"), str(tmp_path / "out")]) == 2
    assert run(["import-pairs", "--format", "pickpic", str(source), str(tmp_path / "pairs")]) == 2
    told = capsys.readouterr().err
    assert "exists already" in told
    assert "did you mean 'pickapic'?" in told


@pytest.mark.parametrize("command", ["import-pairs", "export-pairs"])
def test_the_layouts_are_listed(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        run([command, "--formats"])
    shown = tool.lines(capsys).splitlines()
    assert any(line.startswith("pickapic ") for line in shown)
    assert any(line.startswith("hpdv3 ") for line in shown) == (command == "import-pairs")
