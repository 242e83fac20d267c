"""Checks of the reward."""

import torch
from torch import Tensor

from ..reward import scores_of
from .findings import Finding
from .patient import PICTURES, Patient

SIDE = 64
LEVEL = 40 / 255
"""A difference in brightness that anybody sees."""


def answers(patient: Patient) -> Finding:
    """Every picture has a score, and different pictures have different ones."""
    images = torch.cat([patient.rollout.images, _patterns(patient)])
    prompts = [*patient.drawn, *patient.drawn]
    scores = _scores(patient, images, prompts)
    failed = int(torch.isnan(scores).sum())
    if failed:
        return Finding.bad("reward: answers", f"fails on {failed} of {len(scores)} pictures", "mend the reward")
    if float(scores.max() - scores.min()) <= 1e-6 * max(float(scores.abs().max()), 1e-6):
        seen = f"gives {len(scores)} different pictures the same {float(scores[0]):.3g}"
        return Finding.bad("reward: answers", seen, "nothing can be learnt from it; take another")
    return Finding.good("reward: answers", f"from {float(scores.min()):.3g} to {float(scores.max()):.3g}")


def deterministic(patient: Patient) -> Finding:
    """The same pictures have the same scores."""
    first, again = (_scores(patient, _patterns(patient), patient.drawn) for _ in range(2))
    off = float((first - again).abs().max())
    if off != 0:
        seen = f"the same pictures score up to {off:.2g} differently"
        return Finding.bad("reward: same twice", seen, "put its model into eval mode, and fix its random numbers")
    return Finding.good("reward: same twice", "exactly")


def independent(patient: Patient) -> Finding:
    """A picture's score does not depend on its place and its neighbours, unless the reward compares groups."""
    name = "reward: alone and in company"
    images, prompts = _patterns(patient), patient.drawn
    whole = _scores(patient, images, prompts)
    turned = _scores(patient, images.flip(0), prompts[::-1]).flip(0)
    parts = [whole, turned]
    if not patient.reward.can.groupwise:
        parts.append(torch.cat([_scores(patient, images[i : i + 1], prompts[i : i + 1]) for i in range(PICTURES)]))
    off = max(float((whole - part).abs().max()) for part in parts)
    if not off <= 1e-2 * max(float(whole.abs().max()), 1e-6):
        seen = f"a score moves by {off:.2g} with the pictures beside it"
        return Finding.bad(name, seen, "score each picture alone, or declare can.groupwise")
    return Finding.good(name, f"the same but for {off:.1g}")


def sees_fractions(patient: Patient) -> Finding:
    """A reward that takes values for 0 … 255, or cuts them to whole numbers, sees black where we show greys."""
    name = "reward: sees [0, 1]"
    dark = _patterns(patient) * 0.5
    other = dark + LEVEL
    answers_ = [_scores(patient, images, patient.drawn) for images in (dark, other, torch.zeros_like(dark))]
    patterns = _scores(patient, _patterns(patient), patient.drawn)
    blind = all(torch.equal(answers_[0], part) for part in answers_[1:])
    if blind and not torch.equal(patterns, answers_[0]):
        return Finding.bad(
            name, "greys score as black does, to the last bit", "it seems to read 0 … 255: scale its input by 255"
        )
    return Finding.good(name, "greys and black differ" if not blind else "does not look at brightness")


def sees_colours(patient: Patient) -> Finding:
    """A reward that reads its prompt does not take red for blue."""
    name = "reward: sees RGB"
    red, blue = (torch.zeros(3, SIDE, SIDE).index_fill_(0, torch.tensor(channel), 1.0) for channel in (0, 2))
    images = torch.stack([red, blue, red, blue]).to(patient.rollout.images)
    prompts = ["a plain red picture"] * 2 + ["a plain blue picture"] * 2
    red_red, red_blue, blue_red, blue_blue = _scores(patient, images, prompts).tolist()
    if red_blue > red_red and blue_red > blue_blue:
        return Finding.bad(name, "prefers blue for 'red' and red for 'blue'", "it reads BGR: turn its channels round")
    size = max(map(abs, (red_red, red_blue, blue_red, blue_blue)))
    reads = abs((red_red - red_blue) - (blue_red - blue_blue)) > 1e-3 * size
    return Finding.good(
        name, "tells red from blue by the prompt" if reads else "does not look for colours in the prompt"
    )


def _scores(patient: Patient, images: Tensor, prompts: list[str]) -> Tensor:
    """Return the scores ``(N,)`` on the CPU, NaN where the reward failed; a group is all of them."""
    with torch.no_grad():
        return scores_of(patient.reward, images, prompts, len(prompts), [0] * len(prompts)).mean.cpu()


def _patterns(patient: Patient) -> Tensor:
    """Return pictures unlike one another: stripes of several widths and colours, as large as the generator's."""
    height, width = patient.rollout.images.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    made = []
    for number in range(PICTURES):
        stripes = ((rows * (number % 2) + columns) // (2 + number) % 2).float().expand(height, width)
        colour = torch.tensor([1.0, 0.3 + 0.2 * number, 0.2 * number])[:, None, None]
        made.append(stripes * colour)
    return torch.stack(made).to(patient.rollout.images)
