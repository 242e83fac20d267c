"""What is measured of a model: calibration, ties, people, the learning curve, leanings, alarms; and its two pages."""

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import head_config, write_pairs
from pairs_for_tests import made, picture

import reward_models
from reward_models.alarms import dead_head, group_leak, position_leak, tells_copies
from reward_models.bias import EDITS, Leaning, probe
from reward_models.card import Card, Measured, SplitCard, verdict
from reward_models.card_text import as_markdown
from reward_models.comparisons import Comparisons, Split, compared, split
from reward_models.head import Head
from reward_models.learning_curve import learning_curve
from reward_models.measures import (
    Part,
    agreement,
    by_annotator,
    by_criterion,
    calibration,
    calibration_by_chance,
    tie_curve,
)
from reward_models.picture_page import picture_page
from reward_models.pixels import PixelStatistic
from reward_models.train import train_reward
from rlhf_images.data import decode
from rlhf_images.preferences import Event, Pairs, PreferencePair
from rlhf_images.preferences.pairs import Counts, LabelledPair
from rlhf_images.preferences.summary import summarise
from rlhf_images.reward import Reward, Scores, scores_of


def pairs_of(margin, target, tie=None) -> tuple[torch.Tensor, Comparisons]:
    """Scores and pairs in which each left picture leads by ``margin``."""
    n = len(margin)
    score = torch.cat([torch.as_tensor(margin), torch.zeros(n)]).float()
    ids = [f"{i:064x}" for i in range(2 * n)]
    tie = torch.zeros(n) if tie is None else torch.as_tensor(tie)
    target = torch.as_tensor(target).float()
    data = Comparisons(ids, ["a"] * 2 * n, torch.arange(n), torch.arange(n) + n, target, tie.float(), torch.ones(n))
    return score, data


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_the_difference():
    source = torch.Generator().manual_seed(0)
    margin = 2 * torch.randn(20_000, generator=source)
    came = (torch.rand(20_000, generator=source) < torch.sigmoid(margin)).float()
    every = list(range(20_000))
    score, data = pairs_of(margin, came)
    error, bins = calibration(score, data, every)
    assert error < 0.015
    assert len(bins) == 10
    assert sum(one.n for one in bins) == 20_000
    boast, _ = calibration(3 * score, data, every)
    p, q = torch.sigmoid(margin.abs()), torch.sigmoid(3 * margin.abs())
    assert boast == pytest.approx(float((q - p).mean()), abs=0.015)
    sides = (torch.rand(20_000, generator=source) < 0.5).float() * 2 - 1  # sides do not matter
    turned, other = pairs_of(margin * sides, torch.where(sides > 0, came, 1 - came))
    assert calibration(turned, other, every)[0] == pytest.approx(error, abs=1e-5)


def test_what_chance_does_to_the_calibration_is_what_it_did():
    source = torch.Generator().manual_seed(0)
    every, found = list(range(40)), []
    for votes in (1, 5):
        errors = []
        for _ in range(200):
            margin = 2 * torch.randn(40, generator=source)
            came = torch.binomial(torch.full((40,), float(votes)), torch.sigmoid(margin), source) / votes
            score, data = pairs_of(margin, came)  # a model whose every chance is true
            errors.append(calibration(score, data, every)[0])
        found.append(calibration_by_chance(score, data, every, torch.full((40,), float(votes))))
        assert found[-1] == pytest.approx(np.mean(errors), rel=0.15)
    assert found[1] < 0.6 * found[0]
    assert calibration_by_chance(*pairs_of(margin, torch.full((40,), 0.5)), every, torch.ones(40)) is None


def test_ties_are_left_out_of_the_calibration_and_fall_with_the_distance():
    margin = torch.linspace(-5, 5, 500)
    tie = torch.exp(-margin.abs())
    score, data = pairs_of(margin, torch.full((500,), 0.5), tie)
    assert calibration(score, data, list(range(500))) is None
    curve = tie_curve(score, data, list(range(500)))
    assert [one.n for one in curve] == [100] * 5
    assert all(a.observed > b.observed and a.expected < b.expected for a, b in itertools.pairwise(curve))
    assert tie_curve(*pairs_of(margin, torch.ones(500)), list(range(500))) == []
    assert tie_curve(score, data, []) == []


def test_each_annotator_and_criterion_is_told_apart(tmp_path):
    rows = [PreferencePair(f"{i:06d}", "p", str(i), str(i + 20), 1.0, "colour" if i % 2 else "") for i in range(20)]
    events = [Event(f"a{i}", "vote", f"{i:06d}", "ann", "left" if i < 15 else "right") for i in range(20)]
    events += [Event(f"b{i}", "vote", f"{i:06d}", "bob", "tie" if i < 10 else "right") for i in range(20)]
    pairs = made(tmp_path / "pairs", rows, events, pictures=40)
    labelled = pairs.labelled()
    data = compared(labelled)
    score = torch.zeros(len(data.ids))
    score[data.left] = 1.0
    group, every = np.arange(20), list(range(20))
    people = by_annotator(score, data, every, labelled, pairs.store.votes(), group, 0)
    assert {name: (part.accuracy, part.n) for name, part in people.items()} == {"ann": (0.75, 20), "bob": (0.0, 10)}
    assert people["ann"].low < 0.75 < people["ann"].high
    criteria = by_criterion(score, data, every, labelled, group, 0)
    assert set(criteria) == {"colour", "not told"}
    assert by_criterion(score, data, every[::2], labelled, group, 0) == {}


def test_ten_times_the_same_pair_is_no_surer():
    """Ten copies of every pair in its group say what one says: the same accuracy, and the same interval around it."""
    margin = torch.randn(30, generator=torch.Generator().manual_seed(0))
    target = torch.arange(30) % 2
    rows = torch.arange(30).repeat_interleave(10)
    one, ten = (pairs_of(margin[r], target[r]) for r in (torch.arange(30), rows))
    alone = agreement(*one, list(range(30)), np.arange(30), 0)
    copied = agreement(*ten, list(range(300)), rows.numpy(), 0)
    assert (copied.accuracy, copied.interval) == (alone.accuracy, alone.interval)
    assert alone.interval[1] - alone.interval[0] > 0.3
    labelled = [
        LabelledPair(PreferencePair(f"{i:03d}", "p", "l", "r", 1.0, "colour"), t, 1 - t, 0, 0)
        for i, t in enumerate(target[rows].tolist())
    ]
    votes = [Event(one.pair.pair, "vote", one.pair.pair, "ann", "left" if one.left else "right") for one in labelled]
    parts = by_annotator(*ten, list(range(300)), labelled, votes, rows.numpy(), 0)["ann"]
    assert (parts.low, parts.high) == alone.interval
    assert by_criterion(*ten, list(range(300)), labelled, rows.numpy(), 0)["colour"].low == alone.interval[0]


@pytest.mark.parametrize("pairs", [20, 60, 300])
def test_votes_without_a_side_raise_no_alarm(pairs):
    for seed in range(50):
        won = torch.rand(pairs, generator=torch.Generator().manual_seed(seed)) < 0.5
        assert position_leak(pairs_of(torch.ones(pairs), won.float())[1], []) == []


def test_the_learning_curve_rises_as_it_did_and_flattens_where_it_did():
    source = torch.Generator().manual_seed(0)
    x = torch.randn(800, 40, generator=source)
    taste = torch.randn(40, generator=source)

    def curve(noise: float):
        d = (x[:400] - x[400:]) @ taste * noise
        won = (torch.rand(400, generator=source) < torch.sigmoid(d)).float()
        data = pairs_of(d, won)[1]
        return learning_curve(x, data, np.arange(400) // 2, 3.0, 0)

    steep, flat = curve(3.0), curve(0.0)
    assert [point.n for point in steep.points] == sorted((point.n for point in steep.points), reverse=True)
    assert steep.points[0].n == 320
    assert steep.points[0].accuracy > steep.points[-1].accuracy + 0.1
    assert steep.more == 400
    assert 0.005 < steep.gain < 0.1
    assert f"{100 * steep.gain:.1f} points" in steep.words
    assert "little, if anything" in flat.words
    few = learning_curve(x, pairs_of(torch.ones(10), torch.ones(10))[1], np.arange(10), 1.0, 0)
    assert few.gain is None
    assert "too few" in few.words


def test_the_probe_finds_what_a_model_leans_on():
    source = torch.Generator().manual_seed(0)
    scale = 0.2 + 0.6 * torch.rand(24, 1, 1, 1, generator=source)
    pictures = list(scale * (0.5 + 0.5 * torch.rand(24, 3, 16, 16, generator=source)))
    left, right = pictures[:12], pictures[12:]
    brighter = torch.tensor([float(a.mean() > b.mean()) for a, b in zip(left, right, strict=True)])
    found = probe(PixelStatistic("brightness"), left, right, ["p"] * 12, brighter, 6)
    assert set(found) == set(EDITS)
    one = found["brightness"]
    assert (one.votes, one.model) == (1.0, 1.0)
    mean = sum(float(PixelStatistic("brightness").statistic(image[None])) for image in left[:6]) / 6
    assert one.up == pytest.approx(0.1 * mean, abs=2e-3)
    assert one.down == pytest.approx(-0.1 * mean, abs=2e-3)
    assert one.slope > 0
    reversed_ = probe(PixelStatistic("brightness"), left, right, ["p"] * 12, 1 - brighter, 2)["brightness"]
    assert (reversed_.votes, reversed_.model) == (0.0, 1.0)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_gives_more_and_less_of_what_it_is_called(name):
    image = decode(picture(3, "PNG", 24)) * 0.6 + 0.2
    reward = reward_models.load({"jpeg_size": "jpeg_incompressibility"}.get(name, name))
    edited = torch.stack([image, *(EDITS[name](image, by).clamp(0, 1) for by in (0.1, -0.1))])
    before, more, less = reward.score(images=edited, prompts=3 * ["p"]).mean.tolist()
    assert less < before < more
    if name == "jpeg_size":
        assert more / before == pytest.approx(1.1, abs=0.05)
        assert less / before <= 0.9


def test_the_probe_finds_every_planted_leaning_and_none_where_there_is_none():
    """Of a picture's left and right halves no edit, and no property, says which is brighter."""
    source = torch.Generator().manual_seed(0)
    soft = torch.nn.functional.interpolate(torch.rand(120, 3, 5, 5, generator=source), size=32, mode="bicubic")
    strength = torch.rand(120, 3, 1, 1, 1, generator=source)
    grain = 0.1 * strength[:, 0] * torch.randn(120, 3, 32, 32, generator=source)
    pictures = list(
        (0.5 + (soft - 0.5) * (0.3 + 0.7 * strength[:, 1]) + 0.3 * (strength[:, 2] - 0.5) + grain).clamp(0, 1)
    )
    left, right, target = pictures[:60], pictures[60:], torch.arange(60.0) % 2

    class Sided(Reward):
        def score(self, *, images, prompts):
            halves = images.mean((1, 2))
            return Scores.of((halves[:, :16].mean(1) - halves[:, 16:].mean(1)) / halves.mean(1))

    for name in EDITS:
        planted = reward_models.load({"jpeg_size": "jpeg_incompressibility"}.get(name, name))
        one = probe(planted, left, right, ["p"] * 60, target, 8)[name]
        assert one.model == 1.0
        assert min(one.slope, one.up, -one.down) > 0, name
    for name, one in probe(Sided(), left, right, ["p"] * 60, target, 8).items():
        assert abs(one.model - 0.5) < 0.2, name
        assert max(abs(one.up), abs(one.down)) < 0.02, name


def test_an_edit_that_changes_no_picture_has_no_effect_to_tell():
    grey = torch.linspace(0.2, 0.8, 256).view(1, 16, 16).expand(3, -1, -1)
    found = probe(PixelStatistic("brightness"), [grey], [grey.flip(-1)], ["p"], torch.ones(1), 1)
    assert found["saturation"].up is found["saturation"].down is None
    assert found["brightness"].up > 0 > found["brightness"].down
    white = torch.ones(3, 16, 16)
    found = probe(PixelStatistic("brightness"), [white, grey], [grey, white], ["p"] * 2, torch.ones(2), 2)
    assert found["brightness"].up == pytest.approx(0.1 * float(grey.mean()), abs=1e-3)  # white gets no brighter


def test_dead_heads_and_sides_are_told(tmp_path):
    assert "dead head" in dead_head(1e-9, 0.5)
    assert "ln 2" in dead_head(1.0, math.log(2))
    assert dead_head(1.0, 0.5) is None
    fair = pairs_of(torch.ones(200), torch.arange(200) % 2)[1]
    assert position_leak(fair, []) == []
    (line,) = position_leak(pairs_of(torch.ones(200), torch.ones(200))[1], [])
    assert "left picture won 100% of 200 pairs" in line
    rows = [PreferencePair(f"{i:06d}", "p", str(i), str(i + 60)) for i in range(60)]
    events = [
        Event(str(i), "vote", f"{i:06d}", "ann", "right" if i % 2 else "left", swapped=bool(i % 2)) for i in range(60)
    ]
    pairs = made(tmp_path / "pairs", rows, events, pictures=120)
    (line,) = position_leak(compared(pairs.labelled()), summarise(pairs).annotators)
    assert "'ann' chose the left of the screen in 100% of 60" in line
    assert line.endswith("look at their votes")  # nobody else is there to learn from
    pairs.store.add(
        [
            Event(f"{who}{i}", "vote", f"{i:06d}", who, "tie" if i < 30 else "left")
            for who in ("bob", "cé")
            for i in (29, 31)
        ]
    )
    (line,) = position_leak(compared(pairs.labelled()), summarise(pairs).annotators)
    assert line.endswith('train without them: annotator=["bob", "cé"]')
    assert {one.pair.pair for one in pairs.labelled(("bob", "cé"))} == {"000029", "000031"}


def test_copies_across_the_split_are_told():
    source = torch.Generator().manual_seed(0)
    data = pairs_of(torch.ones(40), torch.ones(40))[1]
    division = Split("picture", list(range(30)), list(range(30, 40)), np.arange(40), "")
    x = torch.randn(80, 20, generator=source)
    assert group_leak(x, data, division) is None
    assert tells_copies(x, data, division)
    x[30:33] = x[:3] + 1e-4  # pictures 30 to 32 are left ones of held-out pairs
    assert "3 of 20 held-out pictures" in group_leak(x, data, division)
    assert group_leak(None, data, division) is None
    assert group_leak(torch.ones(80, 20), data, division) is None


@pytest.mark.parametrize("pairs", [20, 60, 300])
def test_pictures_that_are_alike_by_chance_are_no_copies(pairs):
    """The answers to a checklist, and pictures of one grey each: nothing tells two of them apart, copies or not."""
    data = pairs_of(torch.ones(pairs), torch.ones(pairs))[1]
    rows = list(range(pairs))
    division = Split("picture", rows[pairs // 4 :], rows[: pairs // 4], np.arange(pairs), "")
    for seed in range(50):
        source = torch.Generator().manual_seed(seed)
        answers = 14 * (torch.rand(2 * pairs, 4, generator=source) < 0.5).float() - 7
        grey = torch.rand(2 * pairs, 1, generator=source) * torch.linspace(0.5, 1, 20)
        usual = torch.randn(2 * pairs, 43, generator=source) * torch.arange(1, 44) ** -0.5
        for evidence in (answers, answers[:, :1], grey, usual):
            assert group_leak(evidence, data, division) is None
        assert [tells_copies(evidence, data, division) for evidence in (answers, grey, usual)] == [False, False, True]


def test_the_card_is_of_the_pairs_that_were_held_out(votes, trained_head):
    card = json.loads((trained_head / "card.json").read_text())
    pairs = Pairs(votes)
    labelled = pairs.labelled()
    data, division = compared(labelled), split(labelled, 0.25, 0)
    images = torch.stack([pairs.image(picture) for picture in data.ids])
    score = scores_of(reward_models.load(str(trained_head)), images, data.prompts, 64).mean
    told, learnt = (agreement(score, data, side, division.group, 0) for side in (division.held_out, division.train))
    assert card["split"]["hash"] == division.hash
    assert card["nll"] == pytest.approx(told.nll, abs=1e-4) != pytest.approx(learnt.nll, abs=1e-3)
    assert card["train_nll"] == pytest.approx(learnt.nll, abs=1e-4)
    assert card["held_out_accuracy"] == pytest.approx(told.accuracy, abs=1e-6)
    assert tuple(card["held_out_accuracy_ci"]) == pytest.approx(told.interval, abs=1e-6)
    assert card["accuracy_of_ceiling"] == pytest.approx(told.accuracy / 0.9, abs=1e-5)
    assert card["ece"] == pytest.approx(calibration(score, data, division.held_out)[0], abs=1e-4)


def test_the_card_says_all_of_it(trained_head):
    card = json.loads((trained_head / "card.json").read_text())
    assert card["family"] == "head"
    assert 0 <= card["ece"] <= 0.5
    assert card["told"]["folds"] == 5
    assert set(card["measured"]["bias"]) == set(EDITS)
    assert card["measured"]["learning_curve"]["words"]
    text = (trained_head / "CARD.md").read_text()
    for heading in ("Do its chances come true?", "Whom it agrees with", "What more labels", "leans on", "family"):
        assert heading in text
    assert "Alarm:" not in text
    assert "none (looked for: dead head, position leak, group leak)" in text
    assert card["score_mean"] == pytest.approx(float(Head.load(trained_head).reference.mean()), abs=1e-3)


NOTHING = Measured([], [], {}, {}, None, {})


def card_with(**known) -> Card:
    """A card on which nothing is known but ``known``."""
    unknown = (None, None, None, None, 3, 0, 0, "", SplitCard("prompt", 0, ""), None, None, None, None)
    return replace(Card("head", *unknown, 0.5, 1.0, 0.0, {}, {}, [], [], NOTHING), **known)


def test_a_name_stays_in_its_cell():
    measured = replace(NOTHING, by_annotator={"a|b\n# c": Part(0.5, 0.4, 0.6, 3)})
    text = as_markdown(card_with(measured=measured))
    assert "a\\|b # c" in text
    assert "\n# c" not in text


def test_the_card_says_what_chance_does_what_is_usual_and_which_alarms_there_were():
    known = {"ece": 0.15, "ece_by_chance": 0.16, "score_mean": -2.88, "looked_for": ["dead head", "position leak"]}
    text = as_markdown(card_with(**known))
    assert "| 0.150 (by chance alone, were the model perfect: 0.160) |" in text
    assert "the average training picture has −2.88" in text
    assert "| Alarms | none (looked for: dead head, position leak) |" in text
    grey = Leaning(None, 0.5, -0.001, None, -0.004)
    leaning = as_markdown(card_with(measured=replace(NOTHING, bias={"saturation": grey})))
    assert "| saturation | – | 50.0% | 0.00 | – | 0.00 |" in leaning
    assert "coin" not in verdict(card_with(held_out_accuracy=0.7, held_out_accuracy_ci=(0.55, 0.85)))
    assert "coin" in verdict(card_with(held_out_accuracy=0.6, held_out_accuracy_ci=(0.45, 0.75)))


def test_the_picture_page_is_whole_and_harmless(tmp_path):
    hostile = "</p><script>alert(1)</script>"
    rows = [PreferencePair(f"{i:06d}", hostile, str(i), str(i + 20), 1.0, "", Counts(left=1.0)) for i in range(20)]
    pairs = made(tmp_path / "pairs", rows, pictures=40)
    labelled = pairs.labelled()
    data, division = compared(labelled), split(labelled, 0.25, 0)
    score = torch.linspace(-2, 2, len(data.ids))
    page = picture_page("me & you", "verdict", ["beware"], pairs, data, division, score)
    text = page.decode()
    assert "<script" not in text
    assert "me &amp; you" in text
    assert "Alarm: beware" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert text.count("&lt;script") >= text.count("<img")
    assert text.count("<img") >= 9
    assert page == picture_page("me & you", "verdict", ["beware"], pairs, data, division, score)
    for path in (tmp_path / "pairs" / "images").glob("*"):
        path.unlink()
    assert b"<img" not in picture_page("t", "v", [], pairs, data, division, score)


def test_mistakes_are_the_surest_first(tmp_path):
    rows = [
        PreferencePair(f"{i:06d}", f"prompt {i}", str(i), str(i + 12), 1.0, "", Counts(left=i % 2, right=1 - i % 2))
        for i in range(12)
    ]
    pairs = made(tmp_path / "pairs", rows, pictures=24)
    data = compared(pairs.labelled())
    score = torch.zeros(24)
    score[data.left] = torch.arange(12.0)
    everything = Split("picture", list(range(12)), [], np.arange(12), "")
    text = picture_page("t", "v", [], pairs, data, everything, score).decode()
    told = re.findall(r'own choice (\d+) %; every vote was against it\.<br><span class="muted">prompt (\d+)', text)
    assert [int(number) for _, number in told] == [10, 8, 6, 4, 2]
    assert "the average training picture has +2.75" in text
    assert "people" not in text  # a script may have voted


def test_a_switched_off_probe_is_not_on_the_card(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 24)
    train_reward(replace(head_config(pairs.folder, tmp_path / "out"), probed=0))
    assert json.loads((tmp_path / "out" / "card.json").read_text())["measured"]["bias"] == {}
    assert "leans on" not in (tmp_path / "out" / "CARD.md").read_text()
