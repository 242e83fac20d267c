"""Weighted sums and ensembles, by their closed forms."""

import pytest
import torch

import reward_models
from reward_models.combine import Ensemble, Weighted
from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, scores_of

PROMPTS = ["x"] * 4


class Linear(Reward):
    """``factor · brightness + offset``, unsure by ``doubt``; its reference is the scores of 0, ½ and 1."""

    def __init__(self, factor=1.0, offset=0.0, doubt=None, fails=(), measured=True) -> None:
        self.factor, self.offset, self.doubt, self.fails = factor, offset, doubt, fails
        self.can = Capabilities(differentiable=True, uncertainty=doubt is not None)
        if measured:
            self.reference = (factor * torch.tensor([0.0, 0.5, 1.0]) + offset).sort().values

    def score(self, *, images, prompts):
        mean = self.factor * images.mean((1, 2, 3)) + self.offset
        mean = torch.where(torch.tensor([i in self.fails for i in range(len(images))]), torch.nan, mean)
        std = None if self.doubt is None else torch.full((len(images),), float(self.doubt))
        return Scores.of(mean, std, {"own": mean})


@pytest.fixture
def images():
    return torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_the_sum_is_of_standard_deviations_of_the_reference(images):
    brightness = images.mean((1, 2, 3))
    mixture = Weighted({"a": (Linear(3.0, 7.0), 2.0), "b": (Linear(-100.0, 1.0), 0.5)})
    scores = mixture.score(images=images, prompts=PROMPTS)
    torch.testing.assert_close(scores.mean, (2 - 0.5) * (brightness - 0.5) / 0.5)
    assert set(scores.components) == {"a", "b", "a/own", "b/own"}
    torch.testing.assert_close(scores.components["b"], 1 - 100 * brightness)


def test_the_unit_of_a_part_does_not_matter(images):
    """A raw sum would let the larger one win."""
    sums = [
        Weighted({"a": (Linear(1.0), 1.0), "b": (Linear(-factor, offset), 0.7)}).score(images=images, prompts=PROMPTS)
        for factor, offset in ((1.0, 0.0), (1000.0, -3e4))
    ]
    torch.testing.assert_close(sums[0].mean, sums[1].mean, rtol=1e-3, atol=1e-4)


def test_doubts_add_in_squares_where_every_part_has_one(images):
    both = Weighted({"a": (Linear(2.0, doubt=0.3), 2.0), "b": (Linear(4.0, doubt=0.8), -1.0)})
    assert both.can.uncertainty
    std = both.score(images=images, prompts=PROMPTS).std
    torch.testing.assert_close(std, torch.full((4,), ((2 * 0.3 / 1.0) ** 2 + (0.8 / 2.0) ** 2) ** 0.5))
    one = Weighted({"a": (Linear(doubt=0.3), 1.0), "b": (Linear(), 1.0)})
    assert not one.can.uncertainty
    assert one.score(images=images, prompts=PROMPTS).std is None


def test_a_picture_that_one_part_fails_on_has_no_sum(images):
    for mixture in (
        Weighted({"a": (Linear(fails=(1,)), 1.0), "b": (Linear(fails=(3,)), 1.0)}),
        Ensemble([Linear(fails=(1,)), Linear(2.0), Linear(fails=(3,))]),
    ):
        scores = scores_of(mixture, images, PROMPTS, 4)
        assert scores.valid.tolist() == [True, False, True, False]
        assert scores.mean.isnan().tolist() == [False, True, False, True]


def test_what_a_part_calls_a_failure_is_one_whatever_the_number_beside_it(images):
    class Honest(Linear):
        def score(self, *, images, prompts):
            return Scores(super().score(images=images, prompts=prompts).mean, torch.tensor([True, False, True, True]))

    for mixture in (Weighted({"a": (Honest(), 1.0), "b": (Linear(), 1.0)}), Ensemble([Honest(), Linear()])):
        assert mixture.score(images=images, prompts=PROMPTS).valid.tolist() == [True, False, True, True]


def test_a_part_without_a_reference_is_named(images):
    mixture = Weighted({"known": (Linear(), 1.0), "new": (Linear(measured=False), 1.0)})
    assert list(mixture.unmeasured()) == ["new"]
    with pytest.raises(BadInput, match="reward 'new': cannot be added to others"):
        mixture.score(images=images, prompts=PROMPTS)
    flat = Linear()
    flat.reference = torch.full((5,), 3.0)
    with pytest.raises(BadInput, match="reward 'flat'"):
        Weighted({"flat": (flat, 1.0)}).score(images=images, prompts=PROMPTS)
    nested = Ensemble([mixture, mixture])
    assert list(nested.unmeasured()) == ["0/new", "1/new"]


def test_an_ensembles_doubt_is_its_disagreement_and_its_members_own(images):
    brightness = images.mean((1, 2, 3))
    apart = Ensemble([Linear(1.0), Linear(3.0)]).score(images=images, prompts=PROMPTS)
    torch.testing.assert_close(apart.mean, 2 * brightness)
    torch.testing.assert_close(apart.std, brightness * 2**0.5)
    agreed = Ensemble([Linear(doubt=0.3), Linear(doubt=0.5)]).score(images=images, prompts=PROMPTS)
    torch.testing.assert_close(agreed.std, torch.full((4,), ((0.09 + 0.25) / 2) ** 0.5))


def test_a_mixture_can_what_its_parts_can(images):
    bold, diversity = reward_models.load("bold"), reward_models.load("diversity")
    assert Weighted({"a": (Linear(), 1.0), "b": (diversity, 1.0)}).can == Capabilities(
        differentiable=True, groupwise=True
    )
    assert not Ensemble([Linear(), bold]).can.differentiable
    assert Ensemble([Linear(), bold]).can.uncertainty


def test_the_id_depends_on_every_part_weight_and_reference():
    def of(weight=1.0, offset=0.0):
        return Weighted({"a": (Linear(1.0, offset), 1.0), "b": (Linear(), weight)}).id

    assert of() == of()
    assert len({of(), of(weight=2.0), of(offset=1.0), Ensemble([Linear(), Linear()]).id}) == 4


def test_as_written_in_a_config(images):
    mixture = reward_models.load({"brightness": 1.0, "sharpness": -0.2})
    assert mixture.weights == {"brightness": 1.0, "sharpness": -0.2}
    assert list(mixture.unmeasured()) == ["brightness", "sharpness"]
    members = reward_models.load(("brightness", "contrast"))
    scores = members.score(images=images, prompts=PROMPTS)
    pair = torch.stack(
        [reward_models.load(n).score(images=images, prompts=PROMPTS).mean for n in ("brightness", "contrast")]
    )
    torch.testing.assert_close(scores.mean, pair.mean(0))
    torch.testing.assert_close(scores.std, pair.std(0))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "an empty mapping"),
        ({"brightness": 0.0}, "has weight 0"),
        ({"brightness": float("nan")}, "has weight nan"),
        ({"brightnes": 1.0}, "did you mean 'brightness'"),
        (("brightness",), "an ensemble of 1"),
        (("brightness", "nothing"), "no such name"),
    ],
)
def test_a_mistake_is_answered_in_one_line(spec, says):
    with pytest.raises(BadInput, match=says):
        reward_models.load(spec)
