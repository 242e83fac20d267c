"""Each layout by its real columns: who won, by how much, and what its oddities mean."""

import json
import sqlite3

import pairs_for_tests as tool
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from layouts import TABLES, colors

from rlhf_images.errors import BadInput
from rlhf_images.preferences import Pairs
from rlhf_images.preferences.formats import IMPORTERS
from rlhf_images.preferences.formats.color_sets import PROMPT
from rlhf_images.preferences.pairs import Counts, picture_id

OTHERS = {"winners", "folders", "events"}
"""Importers that read no table; they have tests of their own."""


@pytest.fixture
def source(tmp_path):
    """A folder with pictures 0.png to 5.png, in truth of several formats."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(tool.picture(number))
    return folder


def write(folder, rows, form="jsonl"):
    path = folder / f"table.{form}"
    if form == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif form == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def result(pairs: Pairs):
    """Return (prompt, share of votes for the picture of the higher number) of each judged pair."""
    number = {picture_id(tool.picture(number)): number for number in range(12)}
    found = []
    for labelled in pairs.labelled():
        turned = number.get(labelled.pair.left, 0) > number.get(labelled.pair.right, 1)
        found.append((labelled.pair.prompt, labelled.preference if turned else 1 - labelled.preference))
    return sorted(found)


def test_every_importer_is_tried():
    assert TABLES.keys() | OTHERS == IMPORTERS.keys()


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_better_one_wins(source, tmp_path, name, form):
    rows = TABLES[name]("a red cat", "1.png", "0.png") + TABLES[name]("猫", "2.png", "3.png")
    pairs = tool.taken(name, write(source, rows, form), tmp_path / "pairs")
    if name == "color-sets":
        assert [(labelled.pair.prompt, labelled.preference) for labelled in pairs.labelled()] == [(PROMPT, 0.0)] * 2
        return
    sure = {"rapidata": 0.75, "hpdv3": 12 / 19}.get(name, 1.0)
    assert result(pairs) == [("a red cat", pytest.approx(sure)), ("猫", pytest.approx(1 - sure))]
    assert not (tmp_path / "pairs/set_aside.jsonl").exists()


def test_pickapic_rows_with_embedded_bytes_ties_soft_labels_and_no_label(source, tmp_path):
    def row(number, first, second, **more):
        both = {"jpg_0": tool.picture(number), "jpg_1": tool.picture(number + 1), "caption": f"p{number}"}
        return {**both, "label_0": first, "label_1": second, "user_id": None, "has_label": True, **more}

    rows = [
        row(0, 0.5, 0.5, user_id=3),
        row(1, 0.7, 0.3),
        row(2, 0.0, 1.0),
        row(3, None, None, has_label=False),
        row(4, 0.9, 0.9),
    ]
    pairs = tool.taken("pickapic", write(source, rows, "parquet"), tmp_path / "pairs")
    told = {one.pair.prompt: (one.left, one.right, one.tie) for one in pairs.labelled()}
    assert told == {"p0": (0, 0, 1), "p1": (0.7, pytest.approx(0.3), 0), "p2": (0, 1, 0)}
    assert [vote.annotator for vote in pairs.store.votes()] == ["pickapic:3"]
    assert len(pairs.pairs) == 4
    assert "labels are 0.9 and 0.9" in (tmp_path / "pairs/set_aside.jsonl").read_text()


def test_pickapic_without_pictures_finds_them_by_uid(source, tmp_path):
    for number in range(2):
        (source / f"uid{number}.jpg").write_bytes(tool.picture(number))
    row = {"image_0_uid": "uid0", "image_1_uid": "uid1", "caption": "a", "label_0": 0, "label_1": 1}
    assert result(tool.taken("pickapic", write(source, [row]), tmp_path / "pairs")) == [("a", 1.0)]


@pytest.mark.parametrize("named", [True, False])
def test_several_votes_of_pickapic_on_one_pair_are_one_pair(source, tmp_path, named):
    """Votes come in rows, and the sides may be exchanged from row to row: two of three prefer picture 1."""
    one = {"jpg_0": "0.png", "jpg_1": "1.png", "caption": "a"}
    other = {"jpg_0": "1.png", "jpg_1": "0.png", "caption": "a"}
    rows = [
        {**one, "label_0": 1, "label_1": 0, "user_id": 1},
        {**other, "label_0": 1, "label_1": 0, "user_id": 2},
        {**other, "label_0": 1, "label_1": 0, "user_id": 3},
    ]
    rows = [row if named else {**row, "user_id": None} for row in rows]
    pairs = tool.taken("pickapic", write(source, rows), tmp_path / "pairs")
    (labelled,) = pairs.labelled()
    assert (labelled.left, labelled.right) == (1, 2)
    assert len(pairs.store.votes()) == (3 if named else 0)


def test_hpdv2_test_rows_are_rankings_by_several_people(source, tmp_path):
    row = {
        "prompt": "a",
        "image_path": ["0.png", "1.png", "2.png"],
        "rank": [1, 2, 3],
        "raw_annotations": [{"rank": [1, 2, 3], "user_hash": "x"}, {"rank": [1, 1, 2], "user_hash": "y"}],
    }
    pairs = tool.taken("hpdv2", write(source, [row]), tmp_path / "pairs")
    assert [pair.weight for pair in pairs.pairs] == [pytest.approx(1 / 3)] * 3
    assert [(one.left, one.right, one.tie) for one in pairs.labelled()] == [(1, 0, 1), (2, 0, 0), (2, 0, 0)]
    assert {vote.annotator for vote in pairs.store.votes()} == {"x", "y"}
    averaged = tool.taken("hpdv2", write(source, [{**row, "raw_annotations": []}]), tmp_path / "averaged")
    assert [pair.counts for pair in averaged.pairs] == [Counts(left=1.0)] * 3


def test_hpdv3_counts_belong_to_the_preferred_one(source, tmp_path):
    rows = [
        {"prompt": "a", "path1": "0.png", "path2": "1.png", "choice_dist": [3, 9]},
        {"prompt": "b", "path1": "0.png", "path2": "1.png", "choice_dist": None},
        {"prompt": "c", "path1": "0.png", "path2": "1.png", "choice_dist": [0, 0]},
    ]
    pairs = tool.taken("hpdv3", write(source, rows), tmp_path / "pairs")
    assert [pair.counts for pair in pairs.pairs] == [Counts(left=9.0, right=3.0), Counts(left=1.0)]


def test_imagereward_rows_have_two_more_criteria(source, tmp_path):
    rows = [
        {"image_path": f"{n}.png", "prompt_id": "1", "prompt": "a", "rank": rank, "overall_rating": 1,
         "image_text_alignment_rating": alignment, "fidelity_rating": None}
        for n, rank, alignment in ((0, 2, 7), (1, 1, 3), (2, 2, 3))
    ]  # fmt: skip
    by_rank = tool.taken("imagereward", write(source, rows), tmp_path / "rank")
    assert [pair.counts for pair in by_rank.pairs] == [Counts(right=1.0), Counts(tie=1.0), Counts(left=1.0)]
    options = {"criterion": "image_text_alignment"}
    by_text = tool.taken("imagereward", write(source, rows), tmp_path / "text", **options)
    assert [pair.counts for pair in by_text.pairs] == [Counts(left=1.0), Counts(left=1.0), Counts(tie=1.0)]
    assert {pair.criterion for pair in by_text.pairs} == {"image_text_alignment"}
    assert {pair.weight for pair in by_text.pairs} == {1 / 3}


def test_rapidata_has_counts_or_shares_for_what_was_asked(source, tmp_path, capsys):
    row = {
        "prompt": "a", "image1": "0.png", "image2": "1.png",
        "weighted_results_image1_coherence": 0.9, "weighted_results_image2_coherence": 0.1,
        "weighted_results_image1_preference": 0.2, "weighted_results_image2_preference": 0.8,
    }  # fmt: skip
    first = tool.taken("rapidata", write(source, [row]), tmp_path / "first")
    assert [(pair.criterion, pair.counts) for pair in first.pairs] == [("preference", Counts(0.2, 0.8))]
    assert "'coherence' (1): choose with --criterion" in tool.lines(capsys)
    other = tool.taken("rapidata", write(source, [row]), tmp_path / "other", criterion="coherence")
    assert [(pair.criterion, pair.counts) for pair in other.pairs] == [("coherence", Counts(0.9, 0.1))]
    with pytest.raises(BadInput, match=r"'beauty'.*preference, coherence"):
        tool.taken("rapidata", write(source, [row]), tmp_path / "none", criterion="beauty")
    counted = {"prompt": "a", "image1": "0.png", "image2": "1.png", "votes_image1": 19, "votes_image2": 5}
    assert tool.taken("rapidata", write(source, [counted]), tmp_path / "votes").pairs[0].counts == Counts(19.0, 5.0)


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"tie_case": True}, Counts(tie=1.0)),
        ({"tie_case": False}, Counts(right=1.0)),
        ({"choice_dist": [3, 1]}, Counts(left=3.0, right=1.0)),
        ({"model1_dim2_score": 4, "model2_dim2_score": 2}, Counts(tie=1.0)),
    ],
)
def test_editreward_sums_its_dimensions(source, tmp_path, more, counts):
    row = {**TABLES["editreward"]("a", "1.png", "0.png")[0], **more}
    assert tool.taken("editreward", write(source, [row]), tmp_path / "pairs").pairs[0].counts == counts
    if "model1_dim2_score" in more:
        second = tool.taken("editreward", write(source, [row]), tmp_path / "second", criterion="dim2")
        assert second.pairs[0].counts == Counts(left=1.0)


def test_label_studio_in_its_other_forms(source, tmp_path):
    def task(prompt, *told):
        data = {"caption": prompt, "left": "/data/upload/3/0.png", "right": "/data/local-files/?d=some/where/1.png"}
        return {"data": data, "annotations": list(told)}

    def annotation(by, word, kind="pairwise", cancelled=False):
        value = {"selected": word} if kind == "pairwise" else {"choices": [word]}
        return {"completed_by": by, "was_cancelled": cancelled, "result": [{"type": kind, "value": value}]}

    tasks = [
        task("a", annotation({"email": "ann@x.y"}, "left"), annotation(2, "right", cancelled=True)),
        task("b", annotation(1, "Both bad", "choices"), annotation(2, "tie", "choices")),
        task("c"),
        {"prompt": "d", "image1": "0.png", "image2": "1.png", "annotator": 7, "lead_time": 3.5, "pairwise": "left"},
        task("e", annotation(1, "purple")),
        {"data": {"prompt": "f", "image1": "0.png"}, "annotations": []},
    ]
    pairs = tool.taken("label-studio", write(source, tasks), tmp_path / "pairs", images=str(source))
    votes = {vote.pair: [] for vote in pairs.store.votes()}
    for vote in pairs.store.votes():
        votes[vote.pair].append((vote.annotator, vote.choice, vote.ms))
    assert {pair.prompt: votes.get(pair.pair) for pair in pairs.pairs} == {
        "a": [("ann@x.y", "left", None)],
        "b": [("label-studio:1", "both_bad", None), ("label-studio:2", "tie", None)],
        "c": None,
        "d": [("label-studio:7", "left", 3500)],
    }
    aside = [json.loads(line) for line in (tmp_path / "pairs/set_aside.jsonl").read_text().splitlines()]
    assert [row["row"] for row in aside] == ["table.jsonl row 5", "table.jsonl row 6"]
    assert "purple" in aside[0]["reason"]
    assert "1 values name pictures" in aside[1]["reason"]


def test_argilla_nested_and_with_a_ranking(source, tmp_path):
    fields = {"prompt": "a", "image_1": "0.png", "image_2": "1.png"}
    ranked = [{"value": "image_2", "rank": 1}, {"value": "image_1", "rank": 2}]
    records = [
        {"fields": fields, "responses": {"q": [{"value": "both_good", "user_id": "u"}]}},
        {"fields": {**fields, "prompt": "b"}, "responses": {"q": [{"value": ranked, "user_id": "u"}]}},
        {"fields": {**fields, "prompt": "c"}, "responses": {}},
        {"fields": {**fields, "prompt": "d"}, "responses": {"q": [
            {"value": "image_1", "user_id": "u", "status": "discarded"}, {"value": "image_1", "user_id": "v"}]}},
    ]  # fmt: skip
    pairs = tool.taken("argilla", write(source, records), tmp_path / "pairs")
    assert len(pairs.pairs) == 4
    assert result(pairs) == [("a", 0.5), ("b", 1.0), ("d", 0.0)]
    assert {vote.annotator for vote in pairs.store.votes()} == {"u", "v"}
    columns = {name: [record[name] for record in records] for name in ("fields", "responses")}
    assert result(tool.taken("argilla", write(source, columns, "json"), tmp_path / "columns")) == result(pairs)


def test_ratings_are_compared_within_a_person(source, tmp_path):
    rows = [
        {"prompt": "a", "image": f"{n}.png", "rating": rating, "annotator": by}
        for by, n, rating in [("x", 0, 5), ("x", 1, 4), ("y", 0, 1), ("y", 1, 1), ("z", 0, 3)]
    ]
    pairs = tool.taken("ratings", write(source, rows), tmp_path / "pairs")
    (labelled,) = pairs.labelled()
    assert (labelled.left, labelled.right, labelled.tie) == (1, 0, 1)
    assert {vote.annotator for vote in pairs.store.votes()} == {"x", "y"}  # z has compared nothing


def test_csv_tables_are_read_with_several_lines_in_a_cell(source, tmp_path):
    (source / "table.csv").write_text('prompt,left,right,choice,annotator\n"two\nlines",0.png,1.png,left,ann\n')
    pairs = tool.taken("pairs", source / "table.csv", tmp_path / "pairs")
    assert [(pair.prompt, one.left) for pair, one in zip(pairs.pairs, pairs.labelled(), strict=True)] == [
        ("two\nlines", 1)
    ]


def test_a_folder_of_pictures_a_prompt(tmp_path):
    def prompt(name, pictures, **files):
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        for number in pictures:
            (folder / f"{number}.png").write_bytes(tool.picture(number))
        for file, content in files.items():
            (folder / file.replace("_", ".")).write_text(content)

    prompt("a cat", range(3))
    prompt("b", range(3), prompt_txt="a dog\n", ratings_json='{"0.png": 1, "1.png": 3.5, "2.png": 1}')
    prompt("c", range(3), prompt_txt="a fox", ranking_json='["2.png", ["0.png", "1.png"]]')
    prompt("d", range(1))
    prompt("e", range(2), ranking_json='["9.png", "0.png"]')
    prompt("f", range(2), ratings_json="{")
    pairs = tool.taken("folders", tmp_path / "source", tmp_path / "pairs")
    assert [(pair.prompt, pair.weight) for pair in pairs.pairs if pair.prompt == "a cat"] == [("a cat", 1.0)] * 3
    assert {pair.weight for pair in pairs.pairs if pair.prompt != "a cat"} == {1 / 3}
    assert result(pairs) == sorted(
        [("a dog", 1.0), ("a dog", 0.5), ("a dog", 0.0), ("a fox", 0.5), ("a fox", 1.0), ("a fox", 1.0)]
    )
    reasons = (tmp_path / "pairs/set_aside.jsonl").read_text()
    for reason in ("expected 2 to 100", "no picture '9.png'", "ratings.json is not JSON"):
        assert reason in reasons


def test_winners_without_partner_or_caption_are_told(tmp_path):
    for folder, names in {"w": "abc", "l": "abd"}.items():
        (tmp_path / "source" / folder).mkdir(parents=True)
        for place, name in enumerate(names):
            (tmp_path / "source" / folder / f"{name}.png").write_bytes(tool.picture(place + 3 * (folder == "l")))
    (tmp_path / "source/w/a.txt").write_text("a cat")
    pairs = tool.taken("winners", tmp_path / "source", tmp_path / "pairs")
    assert [(pair.prompt, pair.counts) for pair in pairs.pairs] == [("a cat", Counts(left=1.0))]
    reasons = (tmp_path / "pairs/set_aside.jsonl").read_text()
    for reason in ("'b': no caption", "'c' is only in w/", "'d' is only in l/"):
        assert reason in reasons


def test_color_sets_are_drawn_and_repeats_are_no_votes(tmp_path):
    picks = [("r1", "x", "y", 1), ("r1", "x", "y", 2), ("r2", "x", "y", 2), ("r2", "y", "z", 2)]
    with sqlite3.connect(tmp_path / "results.db") as database:
        database.execute("CREATE TABLE picks (id text, ip text, c1 text, c2 text, o text, dm integer, sp integer)")
        told = [(who, "", ",".join(colors(a)), ",".join(colors(b)), "", 1, pick) for who, a, b, pick in picks]
        database.executemany("INSERT INTO picks VALUES (?, ?, ?, ?, ?, ?, ?)", told)
    database.close()
    pairs = tool.taken("color-sets", tmp_path / "results.db", tmp_path / "pairs")
    assert [(one.left, one.right) for one in pairs.labelled()] == [(1, 1), (0, 1)]
    assert [event.again for event in pairs.store.events()] == [False, True, False, False]
    image = pairs.image(pairs.pairs[0].left)
    assert image.shape == (3, 64, 64)
    stripes = (image[:, 0, ::8].T * 255).round().int().tolist()
    assert ["".join(f"{value:02x}" for value in stripe) for stripe in stripes] == colors("x")
    assert (image == image[:, :1]).all()
