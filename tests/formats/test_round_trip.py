"""Out and back through every layout that goes both ways: prompts, pictures' bytes, choices, ties, weights are kept."""

import itertools
import json
import shutil
import uuid
from dataclasses import replace

import datasets
import pairs_for_tests as tool
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_images.preferences import Event, Pairs, PreferencePair
from rlhf_images.preferences.events import CHOICES
from rlhf_images.preferences.formats import EXPORTERS, IMPORTERS
from rlhf_images.preferences.pairs import Counts

BOTH = sorted(IMPORTERS.keys() & EXPORTERS.keys())
PROMPTS = st.text(st.characters(codec="utf-8"), max_size=20)
PEOPLE = st.sampled_from(["ann", "bob", "アン@例.jp"])
AMOUNTS = st.sampled_from([0.0, 0.0, 1.0, 12.0, 0.3, 1 / 3])
COUNTS = st.builds(Counts, left=AMOUNTS, right=AMOUNTS, tie=AMOUNTS, both_bad=AMOUNTS)


@st.composite
def votes(draw):
    choice = draw(st.sampled_from(CHOICES))
    return choice, draw(st.integers(1, 2)) if choice in ("left", "right") else 1


@st.composite
def folders(draw):
    """A folder's pairs and events: each pair compares something else, and has at least one vote."""
    criterion = draw(st.sampled_from(["", "coherence"]))
    sides = st.sampled_from(list(itertools.combinations(range(8), 2)))
    contents = draw(
        st.lists(st.tuples(PROMPTS, sides, st.booleans()), min_size=1, max_size=5, unique_by=lambda c: c[:2])
    )
    pairs, events = [], []
    for number, (prompt, pair, turned) in enumerate(contents):
        left, right = map(str, pair[::-1] if turned else pair)
        counts = draw(COUNTS)
        weight = draw(st.sampled_from([1.0, 1 / 6, 0.1, 2.5]))
        pairs.append(PreferencePair(f"{number:06d}", prompt, left, right, weight, criterion, counts))
        people = draw(
            st.dictionaries(st.sampled_from(["ann", "bob", "アン@例.jp"]), votes(), min_size=not counts.total)
        )
        for name, (choice, strength) in people.items():
            events.append(Event(f"{number} {name}", "vote", f"{number:06d}", name, choice, strength=strength))
    return pairs, events


@pytest.mark.parametrize("name", BOTH)
@tool.fuzz(8)
@given(content=folders())
def test_nothing_is_lost_on_the_way_out_and_back(name, content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    before = tool.made(folder / "before", *content, pictures=8)
    out = tool.given(name, folder / "before", folder / "out")
    after = tool.taken(name, out, folder / "after")
    assert tool.said(after) == tool.said(before)
    assert {pair.pair for pair in after.pairs} == {pair.pair for pair in before.pairs}
    assert not (folder / "after/set_aside.jsonl").exists()
    shutil.rmtree(folder)


@pytest.fixture
def folder(tmp_path):
    """Four pairs: left won, right won, a tie, and one that nobody judged; the second is weighted and told by counts."""
    pairs = [
        PreferencePair("000000", "a red cat", "0", "1"),
        PreferencePair("000001", 'a "blue"\ndog', "2", "3", 1 / 6, counts=Counts(left=1.0, right=2.0)),
        PreferencePair("000002", "猫", "4", "5"),
        PreferencePair("000003", "never judged", "6", "7"),
    ]
    cast = [
        Event("a", "vote", "000000", "ann", "right", ms=1200),
        Event("b", "undo", "000000", "ann", undoes="a"),
        Event("c", "vote", "000000", "ann", "left", strength=2),
        Event("d", "vote", "000000", "bob", "both_bad"),
        Event("e", "vote", "000002", "ann", "tie"),
        Event("f", "comment", "000003", "bob", text="neither", tags=("anatomy",)),
        Event("g", "skip", "000003", "bob"),
        Event("h", "vote", "000000", "ann", "right", again=True),
    ]
    return tool.made(tmp_path / "pairs", pairs, cast)


def rows(source, split="train"):
    return datasets.load_dataset(str(source), split=split)


def test_pickapic_has_the_published_columns_and_trainers_filter_ties(folder, tmp_path):
    out = tool.given("pickapic", folder.folder, tmp_path / "out")
    for found in (rows(out), datasets.load_dataset("parquet", data_files=f"{out}/data/*.parquet", split="train")):
        assert {
            "are_different", "best_image_uid", "caption", "created_at", "has_label", "image_0_uid", "image_0_url",
            "image_1_uid", "image_1_url", "jpg_0", "jpg_1", "label_0", "label_1", "model_0", "model_1", "ranking_id",
            "user_id", "num_example_per_prompt",
        } <= set(found.column_names)  # fmt: skip
        assert found["caption"] == ["a red cat", 'a "blue"\ndog', "猫"]
        assert list(zip(found["label_0"], found["label_1"], strict=True)) == [(1, 0), (0, 1), (0.5, 0.5)]
        assert found[0]["jpg_0"] == tool.picture(0)
        assert found[1]["jpg_1"] == tool.picture(3)
        assert found["best_image_uid"] == [folder.pairs[0].left, folder.pairs[1].right, ""]
        assert found["model_0"] == ["model 0", "model 2", "model 4"]
        assert found["user_id"] == [None, None, 0]


def test_trl_puts_ties_where_no_trainer_learns_from_them(folder, tmp_path):
    out = tool.given("trl", folder.folder, tmp_path / "out")
    found, ties = rows(out), rows(out, "ties")
    assert found.column_names[:3] == ["prompt", "chosen", "rejected"]
    assert found.features["chosen"] == found.features["rejected"] == datasets.Image()
    assert found["prompt"] == ["a red cat", 'a "blue"\ndog']
    assert ties["prompt"] == ["猫"]
    bare = found.cast_column("chosen", datasets.Image(decode=False)).cast_column(
        "rejected", datasets.Image(decode=False)
    )
    assert [row["bytes"] for row in bare["chosen"]] == [tool.picture(0), tool.picture(3)]
    assert [row["bytes"] for row in bare["rejected"]] == [tool.picture(1), tool.picture(2)]
    assert found[0]["chosen"].size == (4, 4)
    direct = datasets.load_dataset("parquet", data_files=f"{out}/data/*.parquet", split="train")
    assert direct["prompt"] == found["prompt"]
    assert direct[1]["chosen"].size == (4, 4)


def test_imagefolder_loads_with_both_pictures(folder, tmp_path):
    out = tool.given("imagefolder", folder.folder, tmp_path / "out")
    for found in (rows(out), datasets.load_dataset("imagefolder", data_dir=str(out), split="train")):
        assert found.features["left"] == found.features["right"] == datasets.Image()
        assert found["prompt"] == ["a red cat", 'a "blue"\ndog', "猫"]
        assert found["preference"] == [0.75, 1 / 3, 0.5]
        assert found[2]["left"].size == (4, 4)
    assert len(list((out / "images").iterdir())) == 6
    assert {path.suffix for path in (out / "images").iterdir()} == {".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"}


def test_winners_are_in_w_and_losers_in_l_under_one_name(folder, tmp_path):
    out = tool.given("winners", folder.folder, tmp_path / "out")
    contents = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert contents["w/000000.png"] == tool.picture(0)
    assert contents["l/000000.jpg"] == tool.picture(1)
    assert contents["w/000001.gif"] == tool.picture(3)
    assert contents["l/000001.webp"] == tool.picture(2)
    assert contents["w/000000.txt"] == contents["l/000000.txt"] == b"a red cat"
    assert [name for name in contents if name.startswith("ties/")]
    assert not [name for name in contents if "000002" in name and not name.startswith("ties/")]
    (out / "votes.jsonl").unlink()
    again = tool.taken("winners", out, tmp_path / "foreign")
    assert [(pair.prompt, pair.counts) for pair in again.pairs] == [
        ("a red cat", Counts(left=1.0)),
        ('a "blue"\ndog', Counts(left=1.0)),
    ]
    assert not {"000000", "000001"} & {pair.pair for pair in again.pairs}  # a foreign name may tell what drew a picture


def test_events_keep_the_whole_history(folder, tmp_path):
    out = tool.given("events", folder.folder, tmp_path / "out")
    after = tool.taken("events", out, tmp_path / "after")
    assert after.pairs == folder.pairs
    assert after.store.events() == folder.store.events()  # with undos, skips, comments, repeats, and when
    kept = {side for pair in folder.pairs for side in (pair.left, pair.right)}
    assert after.pictures == {name: known for name, known in folder.pictures.items() if name in kept}


def test_rounds_labelled_apart_are_merged(folder, tmp_path):
    shutil.copytree(folder.folder, tmp_path / "other")
    other = Pairs(tmp_path / "other")
    folder.store.add([Event("i", "vote", "000003", "ann", "left")])
    other.store.add([Event("j", "vote", "000003", "bob", "right")])
    for number, one in enumerate((folder, other)):
        tool.taken("events", tool.given("events", one.folder, tmp_path / f"out{number}"), tmp_path / "merged")
    merged = Pairs(tmp_path / "merged")
    assert {event.id for event in merged.store.events()} == set("abcdefghij")
    assert [(vote.annotator, vote.choice) for vote in merged.store.votes() if vote.pair == "000003"] == [
        ("ann", "left"),
        ("bob", "right"),
    ]


def test_rounds_with_the_sides_exchanged_are_merged(tmp_path):
    """The same two pictures, for one person the other way round: what each of them said stays what they said."""
    for name, left, right in (("one", "0", "1"), ("two", "1", "0")):
        cast = [Event(f"{name} {n}", "vote", "000000", name, "left", swapped=n > 0, again=n > 0) for n in (0, 1)]
        one = tool.made(tmp_path / name, [PreferencePair("000000", "a", left, right, counts=Counts(left=3.0))], cast)
        tool.taken("events", tool.given("events", one.folder, tmp_path / f"{name} out"), tmp_path / "merged")
    merged = Pairs(tmp_path / "merged")
    assert [(e.annotator, e.choice, e.swapped) for e in merged.store.events()] == [
        ("one", "left", False),
        ("one", "left", True),
        ("two", "right", True),
        ("two", "right", False),
    ]
    assert merged.pairs[0].counts == Counts(left=3.0)  # the other three cannot be told from these: they are set aside
    assert "other nameless votes" in (tmp_path / "merged/set_aside.jsonl").read_text()


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_hidden_names_are_nowhere_in_what_is_written(tmp_path, name):
    secret = "someone@example.org"
    pair = PreferencePair("000000", "a", "0", "1")
    cast = [Event(str(uuid.uuid4()), "vote", "000000", who, "left") for who in (secret, "zoe@example.org")]
    tool.made(tmp_path / "pairs", [pair], cast)
    shown = tool.given(name, tmp_path / "pairs", tmp_path / "shown")
    hidden = tool.given(name, tmp_path / "pairs", tmp_path / "hidden", named=False)
    content = [b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()) for out in (shown, hidden)]
    assert [secret.encode() in data for data in content] == [True, False]
    assert [b"annotator-2" in data for data in content] == [False, True]
    after = tool.taken(name, hidden, tmp_path / "after")
    assert {vote.annotator for vote in after.store.votes()} == {"annotator-1", "annotator-2"}


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_the_card_tells_what_is_there(folder, tmp_path, name):
    import yaml

    text = (tool.given(name, folder.folder, tmp_path / "out") / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["task_categories"] == ["text-to-image"]
    assert head["size_categories"] == ["n<1K"]
    assert "license" not in head  # nobody told the program
    for fact in ("| pairs | 3 |", "| of them decided | 2 |", "| annotators | 2 |", "| their votes | 3 |"):
        assert fact in text
    assert "| votes of unknown voters | 3 |" in text


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_a_lost_picture_leaves_its_pair_out(folder, tmp_path, capsys, name):
    (folder.folder / "images" / f"{folder.pairs[0].left}.png").unlink()
    (folder.folder / "images" / f"{folder.pairs[2].right}.png").write_bytes(tool.picture(9))
    after = tool.taken(name, tool.given(name, folder.folder, tmp_path / "out"), tmp_path / "after")
    assert [pair.prompt for pair in after.pairs if pair.prompt != "never judged"] == ['a "blue"\ndog']
    told = tool.lines(capsys)
    assert "left out: pair 000000" in told
    assert "left out: pair 000002" in told
    assert "its bytes are not those of its name" in told


def test_an_exported_folder_is_never_overwritten(folder, tmp_path):
    (tmp_path / "out").mkdir()
    tool.given("trl", folder.folder, tmp_path / "out")  # an empty one will do
    with pytest.raises(Exception, match="exists already"):
        tool.given("trl", folder.folder, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_export_that_fails_leaves_nothing_behind(folder, tmp_path):
    def fails(export, out):
        (out / "half").write_text("half")
        raise KeyboardInterrupt

    from rlhf_images.preferences.formats.exporting import export_pairs

    with pytest.raises(KeyboardInterrupt):
        export_pairs("trl", replace(EXPORTERS["trl"], write=fails), str(folder.folder), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_nothing_judged_is_nothing_to_export_but_history(tmp_path):
    tool.made(tmp_path / "pairs", [PreferencePair("000000", "a", "0", "1")])
    for name in sorted(EXPORTERS.keys() - {"events"}):
        with pytest.raises(Exception, match="no judged pair"):
            tool.given(name, tmp_path / "pairs", tmp_path / name)
    out = tool.given("events", tmp_path / "pairs", tmp_path / "events")
    assert tool.taken("events", out, tmp_path / "after").pairs == Pairs(tmp_path / "pairs").pairs
    assert json.loads((out / "pairs.jsonl").read_text())["pair"] == "000000"
