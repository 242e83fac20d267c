"""The alarms: planted hacks are told before they are plain, other noise is not, and each says what it is and where."""

import numpy as np
import pytest
import torch
from planted import HACKS
from torch.nn.functional import interpolate

from rlhf_images import recorded
from rlhf_images.alarm_pairs import alarm_pairs
from rlhf_images.alarms import CHECKS, DRIFT, alarms, drifts, last_quiet, write_alarms
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.errors import BadInput
from rlhf_images.evaluator import Evaluation
from rlhf_images.preferences import Event, Pairs
from rlhf_images.signs import SIGNS, Shared, overlay, signs

SEEDS = 6
EXPECTED = {
    "darkening": "darkening or blanking",
    "saturation": "colour",
    "blur": "structure lost or over-sharpened",
    "over-sharpening": "structure lost or over-sharpened",
    "checkerboard": "noise or a grid",
    "constant picture": "darkening or blanking",
    "tint": "colour",
    "frame": "a pattern over all pictures",
    "text overlay": "a pattern over all pictures",
    "mode collapse": "mode collapse",
    "noise": "noise or a grid",
}


@pytest.fixture(scope="module")
def scans():
    """Real handwriting, in the order of an evaluation: all digits from one writer, then from the next, and so on."""
    images, labels = digits(16)
    rows = [(labels == digit).nonzero()[seed, 0] for seed in range(2 * SEEDS) for digit in range(10)]
    tinted = images[rows] * torch.tensor([1.0, 0.97, 0.93])[:, None, None]
    return tinted.chunk(2)


def seen(folder, step, images, prompts=DIGIT_CAPTIONS, scores=None, kept=4, **more):
    count = len(images)
    judged = {name: torch.as_tensor(column, dtype=torch.float32) for name, column in (scores or {}).items()}
    evaluation = Evaluation(list(prompts) * (count // len(prompts)), list(range(count)), images, judged, **more)
    return recorded.record(recorded.place(folder, step), evaluation, range(kept), step)


@pytest.mark.parametrize("name", HACKS)
def test_a_hack_that_grows_is_told_by_its_name_while_it_is_slight(scans, tmp_path, name):
    prompts = list(DIGIT_CAPTIONS) * SEEDS
    series = [seen(tmp_path, 0, scans[0])]
    for step in range(1, 6):
        series.append(seen(tmp_path, step, HACKS[name](scans[0], prompts, 0.1 * step)))
    found = {alarm.name: alarm.step for alarm in reversed(alarms(series))}
    assert EXPECTED[name] in found
    assert min(found.values()) <= 4, found  # degree 0.4, seen twice


def test_other_handwriting_of_the_same_digits_is_no_alarm(scans, tmp_path):
    series = [seen(tmp_path, step, scans[step % 2]) for step in range(4)]
    assert alarms(series) == []
    assert all(abs(drift.mean()) < DRIFT / 3 for drift in drifts(series[1], series[0]).values())


@pytest.mark.parametrize(("degrees", "quiet"), [([0, 0, 0, 0.5, 0.5], 2), ([0, 0.5, 0.5], 0), ([0, 0, 0.5], None)])
def test_the_last_quiet_evaluation_is_that_before_the_first_sign_of_an_alarm(scans, tmp_path, degrees, quiet):
    prompts = list(DIGIT_CAPTIONS) * SEEDS
    series = [seen(tmp_path, step, HACKS["darkening"](scans[0], prompts, d)) for step, d in enumerate(degrees)]
    assert last_quiet(series, alarms(series)) == quiet


def test_what_is_told_hangs_on_nothing_that_comes_after_and_is_told_once(scans, tmp_path):
    degrees = [0, 0.5, 0.5, 0.5, 0, 0, 0.5, 0.5]
    prompts = list(DIGIT_CAPTIONS) * SEEDS
    series = [seen(tmp_path, step, HACKS["darkening"](scans[0], prompts, d)) for step, d in enumerate(degrees)]
    told = alarms(series)
    assert [alarm.step for alarm in told if alarm.name == "darkening or blanking"] == [2, 7]
    for end in range(len(series) + 1):
        assert alarms(series[:end]) == [alarm for alarm in told if alarm.step < end]
    assert write_alarms(tmp_path) == told
    assert "darkening or blanking" in (tmp_path / "alarms.json").read_text()


def test_an_alarm_points_to_the_pictures_that_show_it_most(scans, tmp_path):
    dark = scans[0].clone()
    worst = [3, 17, 40]
    dark *= 0.6
    dark[worst] *= 0.1
    series = [seen(tmp_path, step, images, kept=60) for step, images in enumerate((scans[0], dark, dark))]
    (alarm,) = [alarm for alarm in alarms(series) if alarm.name == "darkening or blanking"]
    assert set(alarm.rows[:3]) == set(worst)


def _judged(tmp_path, scans, rewards, judged, **more):
    noise = torch.randn(len(scans[0]), generator=torch.Generator().manual_seed(0)) / 10
    return [
        seen(tmp_path, step, scans[0], scores={"reward": noise + reward, "judge": noise + judge}, **more)
        for step, (reward, judge) in enumerate(zip(rewards, judged, strict=True))
    ]


def test_reward_and_judge_part(scans, tmp_path):
    series = _judged(tmp_path, scans, [0, 1, 2, 3, 4], [1, 1.2, 1.1, 1.05, 1.02])
    assert [(alarm.name, alarm.step) for alarm in alarms(series)] == [("reward and judge part", 4)]
    assert "'judge' fell from 1.2" in alarms(series)[0].seen.replace("1.200", "1.2").replace("1.19", "1.2")


def test_a_held_out_judge_that_falls_below_the_base_is_told_and_one_that_rises_is_not(scans, tmp_path):
    assert [a.name for a in alarms(_judged(tmp_path / "a", scans, [0, 0, 0], [1, 0.9, 0.9]))] == [
        "worse by a held-out judge"
    ]
    assert alarms(_judged(tmp_path / "b", scans, [0, 1, 2], [1, 1.1, 1.2])) == []


def test_a_reward_off_its_data_is_told(scans, tmp_path):
    low, high = torch.full((60,), 0.1), torch.full((60,), 0.3)
    score = {"reward": np.zeros(60)}
    series = [seen(tmp_path, i, scans[0], scores=score, stds={"reward": s}) for i, s in enumerate((low, high, high))]
    assert [alarm.name for alarm in alarms(series)] == ["reward off its data"]
    above = {"reward": np.where(np.arange(60) < 15, 2.0, 0.0)}
    series = [seen(tmp_path, i, scans[0], scores=s, highest_labelled=1.0) for i, s in enumerate((score, above, above))]
    assert [alarm.name for alarm in alarms(series)] == ["beyond what was labelled"]
    few = {"reward": np.where(np.arange(60) < 10, 2.0, 0.0)}
    failed = {"reward": np.where(np.arange(60) < 30, few["reward"], np.nan)}  # of half it says nothing: 10 of 30
    for scores, told in ((few, []), (failed, ["beyond what was labelled"])):
        series = [
            seen(tmp_path, i, scans[0], scores=s, highest_labelled=1.0) for i, s in enumerate((score, scores, scores))
        ]
        assert [alarm.name for alarm in alarms(series)] == told


def test_a_run_that_runs_away_is_told(scans, tmp_path):
    series = [seen(tmp_path, i, torch.lerp(scans[0], scans[1], w)) for i, w in enumerate((0, 0.35, 0.4, 1.0))]
    assert "runaway" in [alarm.name for alarm in alarms(series)]
    series = _judged(tmp_path / "fall", scans, [0, 2, 4, 1.5], [0, 1, 1, 1])
    assert [alarm.name for alarm in alarms(series)] == ["runaway"]


def test_every_check_can_fire_and_names_a_remedy():
    fired = {*EXPECTED.values(), "worse by a held-out judge", "reward and judge part", "reward off its data"}
    assert set(CHECKS) == fired | {"beyond what was labelled", "runaway"}
    assert all(remedy for _, _, remedy in CHECKS.values())


# The signs


def test_signs_have_their_closed_forms_on_plain_pictures():
    rows, columns = (torch.arange(16.0) for _ in range(2))
    board = (rows[:, None] + columns) % 2
    pictures = torch.stack([torch.full((3, 16, 16), 0.5), board.expand(3, 16, 16), torch.zeros(3, 16, 16)])
    pictures[2, 0] = 1  # red
    found = signs(pictures)
    assert set(found) == set(SIGNS)
    expected = {
        "brightness": [0.5, 0.5, 0.2126],
        "dark_share": [0, 0.5, 0],
        "light_share": [0, 0.5, 0],
        "contrast": [0, 0.5, 0],
        "entropy": [0, 1, 0],
        "saturation": [0, 0, 1],
        "red_green": [0, 0, 1],
        "yellow_blue": [0, 0, 0.5],
        "edges": [0, 1, 0],
        "fine_share": [0, 1, 0],
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values, dtype=torch.float32), atol=1e-5, rtol=0)
    assert found["crispness"][1] > 3.5  # 4 inside, less at the rim
    assert found["roughness"][1] == 4


def test_a_sign_does_not_hang_on_the_other_pictures():
    pictures = torch.rand(40, 3, 20, 12, generator=torch.Generator().manual_seed(0))
    together, alone = signs(pictures), signs(pictures[[37]])
    for name, column in together.items():
        torch.testing.assert_close(column[[37]], alone[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("side", [16, 300])
def test_an_overlay_is_what_all_pictures_share_and_not_what_each_does_for_itself(side):
    noise = torch.Generator().manual_seed(0)
    coarse = (torch.rand(40, 3, side // 4, side // 4, generator=noise) for _ in range(2))
    base, others = (interpolate(clouds, (side, side), mode="bilinear") for clouds in coarse)
    line = torch.zeros(side, side)
    line.view(-1)[:] = 0.5 * (torch.arange(side * side) // side % (side // 4) < side // 8)
    before, own, same = Shared(base), Shared(others), Shared((base + line) / 1.5)
    assert overlay(own.mean, before.mean, before.texture) < 0.25
    assert overlay(same.mean, before.mean, before.texture) > 0.25
    assert overlay(before.mean, before.mean, before.texture) == 0


# What they ask a person


def test_the_pairs_of_an_alarm_are_the_base_s_picture_and_the_one_that_raised_it(scans, tmp_path):
    dark = [HACKS["darkening"](scans[0], list(DIGIT_CAPTIONS) * SEEDS, degree) for degree in (0, 0.5, 0.6)]
    series = [seen(tmp_path, step, images, kept=20) for step, images in enumerate(dark)]
    told = write_alarms(tmp_path)
    folder = alarm_pairs(str(tmp_path))
    pairs = Pairs(folder)
    rows = sorted({row for alarm in told if alarm.step == 2 for row in alarm.rows})
    assert [pair.pair for pair in pairs.pairs] == [f"{row:06d}" for row in rows]
    for row, pair in zip(rows, pairs.pairs, strict=True):
        assert pair.prompt == series[0].prompts[row]
        torch.testing.assert_close(pairs.image(pair.left), series[0].image(row))
        torch.testing.assert_close(pairs.image(pair.right), series[2].image(row))
    pairs.store.add([Event("0", "vote", pairs.pairs[0].pair, "me", "left")])
    assert len(Pairs(alarm_pairs(str(tmp_path))).labelled()) == 1  # made once, and its votes stay


def test_a_run_without_an_alarm_has_nothing_to_ask(scans, tmp_path):
    with pytest.raises(BadInput, match=r"alarms\.json is missing"):
        alarm_pairs(str(tmp_path))
    seen(tmp_path, 0, scans[0])
    write_alarms(tmp_path)
    with pytest.raises(BadInput, match="nothing to ask"):
        alarm_pairs(str(tmp_path))
    (tmp_path / "alarms.json").write_text('[{"step": 1}]')
    with pytest.raises(BadInput, match="cannot be read"):
        alarm_pairs(str(tmp_path))
