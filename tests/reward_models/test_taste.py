"""The scripted annotator and the judge: what they like, and that neither can be had cheaply."""

import torch
from conftest import bolder

import reward_models
from rlhf_images.data import DIGIT_CAPTIONS, digits

IMAGES, LABELS = digits(16)
PROMPTS = [DIGIT_CAPTIONS[label] for label in LABELS]
WRONG = [DIGIT_CAPTIONS[(label + 3) % 10] for label in LABELS]


def score(name, images, prompts):
    return reward_models.load(name).score(images=images, prompts=prompts).mean


def test_bold_prefers_the_bolder_of_two():
    more = score("bold", bolder(IMAGES, 0.5), PROMPTS) > score("bold", IMAGES, PROMPTS)
    assert more.float().mean() > 0.95


def test_bold_prefers_the_digit_that_was_asked_for():
    more = score("bold", IMAGES, PROMPTS) > score("bold", bolder(IMAGES, 0.5), WRONG)
    assert more.float().mean() > 0.95


def test_a_white_square_never_beats_a_bold_legible_digit():
    bold = bolder(IMAGES, 0.5)
    legible = score("legibility", bold, PROMPTS) == 1
    read = score("bold", bold, PROMPTS)[legible]
    white = score("bold", torch.ones(10, 3, 16, 16), list(DIGIT_CAPTIONS))
    assert (read > white.max()).float().mean() > 0.97
    assert white.max() < score("bold", IMAGES, PROMPTS).median()


def test_boldness_saturates():
    spread = score("bold", bolder(IMAGES, 1.0), PROMPTS)
    assert spread.max() <= 2


def test_the_judge_reads_scans_that_it_never_saw_and_is_not_fooled():
    assert score("legibility", IMAGES[::2], PROMPTS[::2]).mean() > 0.97
    assert score("legibility", IMAGES, WRONG).mean() < 0.03
    assert set(score("legibility", IMAGES, PROMPTS).tolist()) == {0.0, 1.0}


def test_the_judge_resizes():
    larger = torch.nn.functional.interpolate(IMAGES[:200], size=64, mode="bicubic").clamp(0, 1)
    assert score("legibility", larger, PROMPTS[:200]).mean() > 0.95


def test_other_prompts_fail():
    for name in ("bold", "legibility"):
        scores = reward_models.load(name).score(images=IMAGES[:2], prompts=["a red fox", PROMPTS[1]])
        assert scores.valid.tolist() == [False, True]
