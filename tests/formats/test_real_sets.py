"""Real rows of public sets, where they lie beside the checkout; their pictures are stand-ins of four pixels."""

from collections import Counter
from pathlib import Path

import pairs_for_tests as tool
import pytest

from rlhf_images.preferences.formats import IMPORTERS
from rlhf_images.preferences.formats.rows import BadRow, Row
from rlhf_images.preferences.formats.tables import Unread, rows

DATA = Path(__file__).parents[2].resolve().parent / "shared" / "data"


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"no real rows: {DATA / name} is not there")
    return DATA / name


def every(name: str, source: Path):
    """Return all pairs that a layout finds, and where it finds none."""
    found, bad = [], []
    for group in IMPORTERS[name].groups(source):
        try:
            assert not isinstance(group, Unread)
            found += IMPORTERS[name].pairs(group)
        except (AssertionError, BadRow):
            bad.append(group)
    return found, bad


def test_imagereward_test_rankings():
    """466 prompts (three of them twice, with other pictures): the counts that the set is described by."""
    found, bad = every("imagereward", real("metadata/imagereward_db_test.json"))
    assert not bad
    choices = Counter(choice for one in found for choice in ("left", "right", "tie") if getattr(one.counts, choice))
    assert choices["left"] + choices["right"] == 6399
    assert choices["tie"] == 831
    assert len({one.left.row.number for one in found}) == 466
    assert sum(one.weight for one in found) == pytest.approx(466)


def test_imagereward_with_pictures_goes_in_whole(tmp_path):
    """The first twenty rankings with real files; what comes out again is what went in."""
    source = real("metadata/imagereward_db_test.json")
    number = 0
    for row in rows(source):
        assert isinstance(row, Row)
        for name in row.values["generations"] if row.number <= 20 else []:
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(tool.picture(1000 + number, "WEBP"))
            number += 1
    pairs = tool.taken("imagereward", source, tmp_path / "pairs", images=str(tmp_path / "images"))
    whole = [one for one in every("imagereward", source)[0] if one.left.row.number <= 20]
    assert len(pairs.pairs) == len(whole)
    assert sum(one.tie for one in pairs.labelled()) == sum(one.counts.tie for one in whole)
    assert sum(pair.weight for pair in pairs.pairs) == pytest.approx(20)
    aside = (tmp_path / "pairs/set_aside.jsonl").read_text()
    assert '"imagereward_db_test.json row 21"' in aside
    assert '"imagereward_db_test.json row 20"' not in aside
    again = tool.taken("trl", tool.given("trl", pairs.folder, tmp_path / "out"), tmp_path / "again")
    assert tool.said(again) == tool.said(pairs)


def test_editreward_validation_pairs():
    found, bad = every("editreward", real("metadata/editreward_valid_503.json"))
    assert not bad
    assert len(found) == 503
    assert all(one.counts.left == 1 and one.counts.total == 1 for one in found)
    assert found[0].left.model == "MagicBrush"


def test_argilla_records():
    found, bad = every("argilla", real("metadata/argilla_image_preference_row.json"))
    assert len(bad) == 1  # a note that is no record
    for one in found:
        assert [ballot.choice for ballot in one.ballots] == ["tie", "left", "left"]
        assert one.left.value.endswith("image_quality_dev/3368.jpg")
        assert one.left.model == "dev"


def test_likert_rows_become_pairs_of_one_caption():
    found, bad = every("tifa", real("metadata/tifa_human_annotations.json"))
    assert not bad
    assert len(found) == 160 * 10  # five models a caption
    assert sum(one.weight for one in found) == pytest.approx(160)


def test_color_picks_of_seven_people(tmp_path):
    for name in ("results.db", "picks.jsonl"):
        pairs = tool.taken("color-sets", real(f"color_sets/{name}"), tmp_path / name)
        events = pairs.store.events()
        assert len(events) == 700
        assert len(pairs.pairs) == 50
        assert len({event.annotator for event in events}) == 7
        assert len(pairs.store.votes()) == 350
        first = {(event.pair, event.annotator): event.choice for event in events if not event.again}
        repeats = [event for event in events if event.again]
        assert sum(first[event.pair, event.annotator] == event.choice for event in repeats) == 229  # of 350
