"""Pairs and what votes make of them; and the scripted annotator errs as often as it says."""

import json
import shlex
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reward_models
from rlhf_images.data import DIGIT_CAPTIONS, encode
from rlhf_images.doubts import doubtful_first
from rlhf_images.errors import BadInput
from rlhf_images.label import label_by_hand, label_scripted, next_command, read_gold, tell
from rlhf_images.preferences import Event, LabelledPair, Pairs, Picture, PreferencePair
from rlhf_images.preferences.events import CHOICES
from rlhf_images.preferences.pairs import picture_id
from rlhf_images.preferences.summary import summarise
from rlhf_images.reward import Capabilities, FunctionReward, Reward, Scores

BRIGHT = FunctionReward(lambda images, prompts: images.mean((1, 2, 3)))


def made(folder: Path, count: int, prompt: str = "a cat", pictures: int = 60) -> Pairs:
    """Return a folder of ``count`` pairs of tiny random pictures, each of two that no other pair compares."""
    size = min(2 * count, pictures)
    data = [encode(image) for image in torch.rand(size, 3, 4, 4, generator=torch.Generator().manual_seed(count))]
    known = [Picture(picture_id(content), prompt, 0, i, {"steps": 1}) for i, content in enumerate(data)]
    pairs = [
        PreferencePair(f"{i:04d}", prompt, known[i % size].id, known[(i + 1 + i // size) % size].id)
        for i in range(count)
    ]
    return Pairs.create(folder, zip(data, known, strict=True), pairs)


@pytest.fixture
def pairs(tmp_path) -> Pairs:
    return made(tmp_path / "pairs", 6)


def vote(pairs: Pairs, annotator: str, votes) -> None:
    pairs.store.add([Event(str(uuid.uuid4()), "vote", pair, annotator, choice) for pair, choice in votes])


def targets(pairs: Pairs) -> dict[str, float]:
    return {labelled.pair.pair: labelled.preference for labelled in pairs.labelled()}


@pytest.mark.parametrize(
    "prompt", ["a cat", "猫 🐈", 'quo"ted \\ back', "line\u2028separator and\x85next", "nul \0", "x" * 9999]
)
def test_what_was_made_is_read_back(tmp_path, prompt):
    pairs = made(tmp_path / "pairs", 2, prompt)
    again = Pairs(tmp_path / "pairs")
    assert again.pairs == pairs.pairs
    assert again.pictures == pairs.pictures
    left, right, prompts = next(again.batches(again.pairs, 8))
    assert prompts == [prompt, prompt]
    assert left.shape == right.shape == (2, 3, 4, 4)
    assert torch.equal(left[1], again.image(again.pairs[1].left))
    assert not torch.equal(left, right)


def test_votes_survive_reopening(pairs):
    vote(pairs, "ann", [("0000", "left"), ("0001", "right")])
    vote(pairs, "bob", [("0000", "tie")])
    again = Pairs(pairs.folder)
    assert again.labelled() == pairs.labelled()
    assert again.store.voted("ann") == {"0000", "0001"}
    assert again.store.voted("bob") == {"0000"}
    assert again.store.voted("nobody") == set()
    assert [labelled.pair for labelled in again.labelled()] == pairs.pairs[:2]


def test_annotators_are_told_apart_whatever_they_are_called(pairs):
    for annotator in ("ann", "ann/0000", " ", "scripted:runs/a b", "アン"):
        vote(pairs, annotator, [("0000", "left")])
        assert pairs.store.voted(annotator) == {"0000"}
    assert pairs.labelled()[0].left == 5


def test_a_changed_mind_counts_and_the_first_vote_is_kept(pairs):
    for choice, preference in (("left", 1.0), ("right", 0.0), ("left", 1.0)):
        vote(pairs, "ann", [("0000", choice)])
        assert targets(pairs) == {"0000": preference}
    assert [event.choice for event in pairs.store.events()] == ["left", "right", "left"]


def test_votes_on_other_pairs_under_the_same_ids_are_not_taken_for_these(tmp_path, pairs):
    vote(pairs, "ann", [("0000", "left")])
    other = made(tmp_path / "other", 6, prompt="a dog")
    (other.folder / "votes.db").write_bytes((pairs.folder / "votes.db").read_bytes())
    assert other.labelled() == []
    assert len(pairs.labelled()) == 1


def test_the_soft_target_is_the_share_that_prefers_left(pairs):
    for annotator, choices in {"a": CHOICES, "b": ("left", "tie", "right", "both_bad"), "c": ("left", "left")}.items():
        vote(pairs, annotator, [(f"{i:04d}", choice) for i, choice in enumerate(choices)])
    assert targets(pairs) == {"0000": 1.0, "0001": 0.5, "0002": 0.25, "0003": 0.5}
    one = {choice: LabelledPair(pairs.pairs[0], **{**dict.fromkeys(CHOICES, 0), choice: 1}) for choice in CHOICES}
    assert {choice: labelled.preference for choice, labelled in one.items()} == {
        "left": 1.0,
        "right": 0.0,
        "tie": 0.5,
        "both_bad": 0.5,
    }


def test_swapping_the_sides_turns_the_preference_round():
    pair = PreferencePair("p", "a cat", "l", "r")
    for counts in [(1, 0, 0, 0), (3, 1, 0, 2), (2, 2, 2, 2), (0, 5, 1, 0), (1, 2, 3, 4)]:
        labelled = LabelledPair(pair, *counts)
        swapped = replace(labelled, left=labelled.right, right=labelled.left)
        assert swapped.preference == pytest.approx(1 - labelled.preference, abs=1e-15)
        assert replace(swapped, left=swapped.right, right=swapped.left) == labelled


@pytest.mark.parametrize("damage", [b"", b"not a picture", "cut", "flip", None])
def test_a_corrupt_picture_is_named(pairs, damage):
    picture = pairs.pairs[0].left
    path = pairs.folder / "images" / f"{picture}.png"
    whole = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        changed = {"cut": whole[:-20], "flip": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]}
        path.write_bytes(changed[damage] if isinstance(damage, str) else damage)
    with pytest.raises(BadInput, match=rf"{picture}\.png: corrupt picture") as raised:
        pairs.image(picture)
    assert "\n" not in str(raised.value)
    assert list(pairs.unreadable(pairs.pairs)) == [pairs.pairs[0].pair]
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    assert len(pairs.labelled()) == len(pairs.pairs) - 1


class Contrary(Reward):
    """Scores brightness, and when asked to compare prefers the darker one."""

    can = Capabilities(pairwise=True)

    def score(self, *, images, prompts):
        return Scores.of(images.mean((1, 2, 3)))

    def prefer(self, *, left, right, prompts):
        return Scores.of(torch.sigmoid(100 * (right - left).mean((1, 2, 3))))


def test_a_pairwise_annotator_votes_as_it_prefers(pairs, tmp_path):
    same = made(tmp_path / "same", 6)
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    label_scripted(same, "contrary", Contrary(), 0.0)
    said = [[vote.preference for vote in labelled.labelled()] for labelled in (pairs, same)]
    assert set(said[0]) == {0, 1}
    assert said[0] == [1 - preference for preference in said[1]]


def test_an_annotator_of_groups_is_refused(pairs):
    with pytest.raises(BadInput, match="scores groups of pictures"):
        label_scripted(pairs, "diversity", reward_models.load("diversity"), 0.0)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pictures.jsonl"])
@pytest.mark.parametrize("damage", [b"{", b'{"other": 1}\n', b"5\n", b"\xff\xfe", None])
def test_a_damaged_list_is_named(pairs, name, damage):
    path = pairs.folder / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(BadInput, match=name):
        Pairs(pairs.folder)


def test_no_pairs_says_how_to_make_some(pairs):
    (pairs.folder / "pairs.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"empty.*generate"):
        Pairs(pairs.folder)
    with pytest.raises(BadInput, match="no pairs in it"):
        Pairs(pairs.folder / "nowhere")


def test_the_annotator_is_wrong_as_often_as_it_says(tmp_path, capsys):
    pairs = made(tmp_path / "pairs", 400)
    label_scripted(pairs, "bright", BRIGHT, 0.2, seed=1)
    left, right, _ = next(pairs.batches(pairs.pairs, 400))
    truth = (left.mean((1, 2, 3)) > right.mean((1, 2, 3))).tolist()
    wrong = [(preference == 1) != better for preference, better in zip(targets(pairs).values(), truth, strict=True)]
    share = sum(wrong) / 400
    assert abs(share - 0.2) < 3 * (0.2 * 0.8 / 400) ** 0.5
    assert wrong[:64] != wrong[64:128]
    half = sum(truth)  # the noise knows no side
    for side in (True, False):
        of_side = [error for error, better in zip(wrong, truth, strict=True) if better is side]
        assert abs(sum(of_side) / len(of_side) - 0.2) < 3 * (0.2 * 0.8 / min(half, 400 - half)) ** 0.5
    record = json.loads((pairs.folder / "labels/scripted_bright.json").read_text())
    assert record["ceiling"] == 0.8
    assert record["noise"] == 0.2
    assert record["votes"] == 400
    assert "400 new votes" in capsys.readouterr().out


def test_labelling_again_adds_nothing_and_an_interrupted_one_is_completed(tmp_path, capsys):
    whole, halved = made(tmp_path / "whole", 130), made(tmp_path / "halved", 130)
    label_scripted(whole, "bright", BRIGHT, 0.3)
    before = whole.labelled()
    capsys.readouterr()
    label_scripted(whole, "bright", FunctionReward(lambda images, prompts: 1 / 0), 0.3)  # is not asked
    assert whole.labelled() == before
    assert " 0 new votes" in capsys.readouterr().out

    calls = 0

    def dies(images, prompts):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return images.mean((1, 2, 3))

    with pytest.raises(KeyboardInterrupt):
        label_scripted(halved, "bright", FunctionReward(dies), 0.3)
    assert 0 < len(halved.labelled()) < 130
    label_scripted(halved, "bright", BRIGHT, 0.3)
    assert halved.labelled() == before


def test_an_annotator_without_noise_is_always_right_and_ties_are_ties(tmp_path):
    pairs = made(tmp_path / "pairs", 40)
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    left, right, _ = next(pairs.batches(pairs.pairs, 40))
    assert list(targets(pairs).values()) == (left.mean((1, 2, 3)) > right.mean((1, 2, 3))).float().tolist()
    flat = made(tmp_path / "flat", 10)
    label_scripted(flat, "flat", FunctionReward(lambda images, prompts: torch.zeros(len(prompts))), 0.5)
    assert set(targets(flat).values()) == {0.5}


def test_two_annotators_err_on_pairs_of_their_own(tmp_path):
    pairs = made(tmp_path / "pairs", 100)
    errors = []
    for name, seed in (("one", 0), ("two", 0), ("one", 1)):
        label_scripted(pairs, name, BRIGHT, 0.5, seed)
        errors.append(targets(pairs))
        (pairs.folder / "votes.db").unlink()
    agreement = [sum(a[pair] == b[pair] for pair in a) for a, b in zip(errors, errors[1:] + errors[:1], strict=True)]
    assert all(30 < count < 70 for count in agreement)


@pytest.mark.parametrize("noise", [0.7, -0.1, float("nan")])
def test_noise_beyond_a_coin_toss_is_refused(pairs, noise):
    with pytest.raises(BadInput, match="--noise"):
        label_scripted(pairs, "bright", BRIGHT, noise)
    assert not (pairs.folder / "votes.db").exists()


def test_an_annotator_that_fails_on_a_picture_says_which_pair(pairs):
    unseen = pairs.image(pairs.pairs[3].right)
    seen = FunctionReward(lambda images, prompts: torch.where((images == unseen).flatten(1).all(1), torch.nan, 1.0))
    with pytest.raises(BadInput, match="cannot judge pair 0003 of 'a cat'"):
        label_scripted(pairs, "seen", seen, 0.0)
    assert pairs.labelled() == []


def test_a_script_judges_pictures_of_any_sizes(tmp_path):
    sizes = [(4, 4), (6, 4), (4, 4), (5, 5), (8, 2), (6, 4)]
    data = [encode(torch.rand(3, *size, generator=torch.Generator().manual_seed(i))) for i, size in enumerate(sizes)]
    known = [Picture(picture_id(content), "a cat", 0, i, {}) for i, content in enumerate(data)]
    three = [PreferencePair(f"{i}", "a cat", known[2 * i].id, known[2 * i + 1].id) for i in range(3)]
    pairs = Pairs.create(tmp_path / "pairs", zip(data, known, strict=True), three)
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    for pair in three:
        brighter = pairs.image(pair.left).mean() > pairs.image(pair.right).mean()
        assert targets(pairs)[pair.pair] == float(brighter)


def test_the_next_command_trains_on_the_people_where_a_script_voted_too(pairs):
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    command = f"rlhf-images train-reward head/reward.yaml pairs={pairs.folder} out={pairs.folder.parent}/"
    assert next_command(pairs, summarise(pairs)) == f"{command}reward"
    vote(pairs, "ann lee", [("0000", "left"), ("0001", "left")])
    vote(pairs, "bob", [("0000", "left")])
    words = shlex.split(next_command(pairs, summarise(pairs)))
    people = 'annotator=["ann lee", "bob"]'
    assert words[3:] == [f"pairs={pairs.folder}", people, f"out={pairs.folder.parent}/reward-people"]
    assert {labelled.pair.pair for labelled in pairs.labelled("ann lee")} == {"0000", "0001"}
    assert [labelled.total for labelled in pairs.labelled(("ann lee", "bob"))] == [2, 1]
    assert pairs.labelled(("carol",)) == pairs.labelled(()) == []


def test_who_only_skipped_takes_nobodys_votes_away(pairs, capsys):
    vote(pairs, "ann", [("0000", "left"), ("0001", "left")])
    vote(pairs, "bob", [("0002", "left")])
    pairs.store.add([Event("s", "skip", "0003", "carol")])
    assert "annotator=" not in next_command(pairs, summarise(pairs))
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    assert "; next: rlhf-images train-reward head/reward.yaml pairs=" in capsys.readouterr().out
    tell(pairs, {})
    assert "carol" not in capsys.readouterr().out.splitlines()[-1]


def test_the_next_command_of_digits_is_the_demos(tmp_path):
    pairs = made(tmp_path / "pairs", 3, DIGIT_CAPTIONS[0])
    vote(pairs, "me", [("0000", "left")])
    assert "train-reward digits/reward.yaml pairs=" in next_command(pairs, summarise(pairs))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"pair": "0000"}', '{"pair": "0000", "choice": "up"}', '{"pair": 5, "choice": "left"}', None]
)
def test_a_gold_file_that_says_nothing_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "gold.jsonl").write_text(text)
    with pytest.raises(BadInput, match=r"--gold .*write one") as raised:
        read_gold(str(tmp_path / "gold.jsonl"))
    assert "\n" not in str(raised.value)


def test_gold_is_read_line_by_line(tmp_path):
    (tmp_path / "gold.jsonl").write_text('{"pair": "0000", "choice": "left"}\n\n{"pair": "0001", "choice": "tie"}\n')
    assert read_gold(str(tmp_path / "gold.jsonl")) == {"0000": "left", "0001": "tie"}


def test_stats_say_the_round_and_what_is_next(pairs, capsys):
    label_scripted(pairs, "bright", BRIGHT, 0.0)
    capsys.readouterr()
    tell(pairs, {})
    said = capsys.readouterr().out
    assert "6 votes on 6 of 6 pairs" in said
    assert "scripted:bright: 6 votes" in said
    assert "next: rlhf-images train-reward" in said


def test_nobody_is_asked_when_nothing_is_left(pairs):
    vote(pairs, "ann", [(pair.pair, "left") for pair in pairs.pairs])
    page = dict(gold={}, host="127.0.0.1", port=0, token=None, open_browser=False)
    with pytest.raises(BadInput, match=r"nothing is left for 'bob'.*--overlap 2 asks one more"):
        label_by_hand(pairs, annotator="bob", overlap=1, **page)


def test_doubts_come_first(tmp_path):
    pairs = made(tmp_path / "pairs", 30)
    other = FunctionReward(lambda images, prompts: images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2)))
    order = doubtful_first(pairs, {"bright": BRIGHT, "red": other})
    assert sorted(order) == [pair.pair for pair in pairs.pairs]
    assert order == doubtful_first(pairs, {"bright": BRIGHT, "red": other})
    assert order != doubtful_first(pairs, {"bright": BRIGHT})
    (pairs.folder / "images" / f"{pairs.pairs[3].left}.png").unlink()
    left = {pair.pair for pair in pairs.pairs if pairs.pairs[3].left not in (pair.left, pair.right)}
    assert set(doubtful_first(pairs, {"bright": BRIGHT})) == left
    blind = FunctionReward(lambda images, prompts: torch.full((len(prompts),), torch.nan))
    with pytest.raises(BadInput, match=r"no pair in .* can be judged"):
        doubtful_first(pairs, {"blind": blind})
    with pytest.raises(BadInput, match="wants one reward model with a posterior"):
        doubtful_first(pairs, {"bright": BRIGHT}, "d_optimal")
