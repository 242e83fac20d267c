"""A round in numbers: what is counted, what is left out, and what a person reads at its end."""

import json
import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from rlhf_images.preferences import Event, Pairs, Picture, PreferencePair
from rlhf_images.preferences.summary import summarise, told


def pairs_of(folder: Path, count: int = 40, sources: tuple[str, str] = ("", "")) -> Pairs:
    """Write a folder of pairs whose left and right pictures are of these ``sources``, ten pairs a prompt."""
    folder.mkdir()
    pairs = [PreferencePair(f"{i:03d}", f"prompt {i // 10}", f"l{i}", f"r{i}") for i in range(count)]
    pictures = [
        Picture(name, pair.prompt, 0, 0, {"run": source} if source else {})
        for pair in pairs
        for name, source in zip((pair.left, pair.right), sources, strict=True)
    ]
    for name, rows in (("pairs.jsonl", pairs), ("pictures.jsonl", pictures)):
        (folder / name).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return Pairs(folder)


def event(kind, pair, annotator="ann", choice=None, **more) -> Event:
    return Event(str(uuid.uuid4()), kind, pair, annotator, choice, **more)


@pytest.fixture
def pairs(tmp_path) -> Pairs:
    return pairs_of(tmp_path / "pairs")


def test_an_empty_round(pairs):
    found = summarise(pairs)
    assert (found.votes, found.pairs, found.labelled, found.annotators) == (0, 40, 0, ())
    assert found.votes_needed == {"0.55": 783, "0.60": 194, "0.65": 85, "0.70": 47}
    assert found.detectable == 1
    assert "0 votes on 0 of 40 pairs" in told(found)
    assert not (pairs.folder / "votes.db").exists()


def test_what_counts_is_counted_once(pairs):
    now = [0.0]
    pairs.store.clock = lambda: now[0]
    first = event("vote", "000", choice="left", ms=400)
    acts = [
        first,
        event("vote", "000", choice="right", ms=900),  # changed their mind
        event("vote", "001", choice="tie", strength=1, ms=500),
        event("vote", "002", choice="both_bad"),
        event("vote", "003", choice="left", swapped=True),
        event("vote", "003", choice="right", again=True),  # the repeat, contradicting
        event("skip", "004"),
        event("skip", "005"),
        event("vote", "005", choice="left"),  # skipped, then voted
        event("flag", "006", tags=("unsafe",)),
        event("vote", "007", choice="left"),
        event("vote", "nowhere", choice="left"),
    ]
    for act in acts:
        pairs.store.add([act])
        now[0] += 6
    now[0] += 1000  # a pause
    pairs.store.add([event("undo", "", undoes=acts[-2].id)])
    (person,) = summarise(pairs).annotators
    assert (person.votes, person.left, person.right, person.tie, person.both_bad) == (5, 2, 1, 1, 1)
    assert (person.skipped, person.flagged, person.fast, person.repeats) == (1, 1, 1, 1)
    assert "5 votes (left 2, right 1, ties 1, both bad 1); 1 more on pairs that came twice" in told(summarise(pairs))
    assert (person.self_agreement.count, person.self_agreement.n) == (0, 1)
    assert person.ceiling[0] == 0.5
    assert (person.left_share.count, person.left_share.n) == (1, 4)
    assert person.gold is None
    assert person.votes_per_minute == pytest.approx(60 * 6 / (6 * 5 + 18), rel=0.3)
    assert json.loads(json.dumps(summarise(pairs).as_json()))["votes"] == 5


def test_pace_knows_pauses(pairs):
    now = [0.0]
    pairs.store.clock = lambda: now[0]
    for number in range(20):
        pairs.store.add([event("vote", f"{number:03d}", choice="left")])
        now[0] += 3 if number != 9 else 3600
    assert summarise(pairs).annotators[0].votes_per_minute == pytest.approx(20)


def test_gold_is_what_was_known(pairs):
    pairs.store.add([event("vote", f"{i:03d}", choice="left" if i < 3 else "tie") for i in range(6)])
    gold = {f"{i:03d}": "left" for i in range(4)} | {"030": "left"}
    (person,) = summarise(pairs, gold).annotators
    assert (person.gold.count, person.gold.n) == (3, 4)
    assert "right on 75%" in told(summarise(pairs, gold))


def test_agreement_needs_two(pairs):
    pairs.store.add([event("vote", f"{i:03d}", choice="left" if i % 2 else "right") for i in range(10)])
    assert summarise(pairs).alpha is None
    assert "agreement" not in told(summarise(pairs))
    pairs.store.add([event("vote", f"{i:03d}", "bob", "left" if i % 2 else "right") for i in range(10)])
    found = summarise(pairs)
    assert found.alpha == found.alpha_ordinal == 1
    assert [person.annotator for person in found.annotators] == ["ann", "bob"]
    assert "alpha 1.00 (1.00 graded)" in told(found)


def test_two_sources_are_compared_and_ranked(tmp_path):
    pairs = pairs_of(tmp_path / "pairs", 40, ("base", "tuned"))
    choices = ["right"] * 26 + ["left"] * 6 + ["tie"] * 6 + ["both_bad"] * 2
    order = np.random.default_rng(0).permutation(40)
    pairs.store.add([event("vote", f"{i:03d}", choice=choices[order[i]], swapped=bool(i % 2)) for i in range(40)])
    found = summarise(pairs)
    assert (found.comparison.before, found.comparison.after) == ("base", "tuned")
    assert found.comparison.win_rate.value == (26 + 8 / 2) / 40
    assert found.comparison.win_rate.clusters == 4
    assert found.comparison.decided.value == 26 / 32
    assert list(found.ranking) == ["tuned", "base"]
    assert found.ranking["tuned"] - 1000 == pytest.approx(1000 - found.ranking["base"])
    assert "'tuned' preferred to 'base' in 75.0% of 40 votes" in told(found)


def test_scripts_neither_agree_with_people_nor_outvote_them(tmp_path):
    pairs = pairs_of(tmp_path / "pairs", 40, ("base", "tuned"))
    pairs.store.add([event("vote", f"{i:03d}", "scripted:bold", "left") for i in range(40)])
    found = summarise(pairs)
    assert (found.alpha, found.decided, found.comparison.win_rate.value) == (None, 40, 0)
    pairs.store.add([event("vote", f"{i:03d}", choice="right") for i in range(8)])
    found = summarise(pairs)
    assert (found.alpha, found.decided, found.comparison.win_rate.value) == (None, 8, 1)
    assert (found.votes, next(iter(found.ranking))) == (48, "tuned")


def test_who_still_votes_is_told_nothing_of_whose_pictures_win(tmp_path):
    pairs = pairs_of(tmp_path / "pairs", 40, ("base", "tuned"))
    pairs.store.add([event("vote", f"{i:03d}", choice="right") for i in range(20)])
    said = told(summarise(pairs, {"000": "left"}), blind=True)
    assert "20 votes" in said
    assert not any(word in said for word in ("tuned", "base", "Elo", "gold"))
    assert all(word in told(summarise(pairs, {"000": "left"})) for word in ("tuned", "base", "Elo", "gold"))


def test_one_source_is_not_compared_with_itself(tmp_path):
    pairs = pairs_of(tmp_path / "pairs", 10, ("base", "base"))
    pairs.store.add([event("vote", "000", choice="left")])
    assert summarise(pairs).comparison is None
    assert summarise(pairs).ranking == {}


def test_what_more_labels_would_gain(pairs):
    pairs.store.add([event("vote", f"{i % 40:03d}", f"a{i // 40}", "left") for i in range(90)])
    said = told(summarise(pairs))
    assert "90 decided votes tell a win rate of 65% or more from chance (80 % power); " in said
    assert "104 more tell 60%, 693 more tell 55%" in said
