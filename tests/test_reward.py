"""The protocol's own promises, on rewards that break them."""

import pytest
import torch

from reward_models.combine import Ensemble, Weighted
from rlhf_images.errors import BadInput, RewardFailed
from rlhf_images.processes import Processes
from rlhf_images.reward import Capabilities, FunctionReward, Reward, Scores, identity, scores_of
from rlhf_images.scoring import gathered_scores


class Given(Reward):
    """Whatever it was given, for pictures whose first pixel is their number."""

    def __init__(self, mean, std=None, components=None, can=None) -> None:
        self.given = Scores.of(torch.tensor(mean), None if std is None else torch.tensor(std), components)
        self.can = can or Capabilities()

    def score(self, *, images, prompts):
        rows = images[:, 0, 0, 0].round().long()
        std = None if self.given.std is None else self.given.std[rows]
        parts = {name: part[rows] for name, part in self.given.components.items()}
        return Scores(self.given.mean[rows], self.given.valid[rows], std, parts)


class GroupSize(Reward):
    can = Capabilities(groupwise=True)

    def score(self, *, images, prompts):
        return Scores.of(images[:, 0, 0, 0] + 100.0 * len(images), components={"size": torch.full((len(images),), 1.0)})


def numbered(count: int) -> torch.Tensor:
    return torch.arange(float(count))[:, None, None, None].expand(-1, 3, 2, 2).clone()


def test_a_mean_or_a_std_that_is_no_number_is_a_failure():
    scores = Scores.of(torch.tensor([1.0, torch.nan, torch.inf, 2.0]), torch.tensor([0.1, 0.1, 0.1, torch.nan]))
    assert scores.valid.tolist() == [True, False, False, False]
    assert Scores.of(torch.ones(2, dtype=torch.float16)).mean.dtype == torch.float32


@pytest.mark.parametrize("micro_size", [1, 2, 5, 100])
def test_parts_are_put_together_in_order(micro_size):
    mean, std = [1.0, torch.nan, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, 0.5]
    reward = Given(mean, std, {"half": torch.tensor(mean) / 2}, Capabilities(uncertainty=True))
    scores = scores_of(reward, numbered(5), ["x"] * 5, micro_size)
    torch.testing.assert_close(scores.mean, torch.tensor(mean), equal_nan=True)
    torch.testing.assert_close(scores.std, torch.tensor(std))
    torch.testing.assert_close(scores.components["half"], torch.tensor(mean) / 2, equal_nan=True)
    assert scores.valid.tolist() == [True, False, True, True, True]
    assert not scores.mean.requires_grad


def test_what_was_declared_invalid_is_nan_afterwards():
    class Doubtful(Reward):
        def score(self, *, images, prompts):
            return Scores(torch.ones(len(prompts)), torch.tensor([True, False]))

    scores = scores_of(Doubtful(), numbered(2), ["x"] * 2, 2)
    assert scores.mean.isnan().tolist() == [False, True]


def test_a_groupwise_reward_is_given_whole_groups_whatever_their_order():
    groups = [7, 3, 7, 7, 3, 9]
    scores = scores_of(GroupSize(), numbered(6), ["x"] * 6, 2, groups)
    assert scores.mean.tolist() == [300, 201, 302, 303, 204, 105]
    with pytest.raises(BadInput, match="scores whole groups"):
        scores_of(GroupSize(), numbered(6), ["x"] * 6, 2)


def test_no_pictures_no_scores():
    assert scores_of(GroupSize(), numbered(0), [], 2, []).mean.shape == (0,)


def test_gathered_by_one_process_equals_scored():
    groups = [0, 0, 1, 1, 1]
    gathered = gathered_scores(GroupSize(), numbered(5), range(5), ["x"] * 5, groups, Processes(), 2)
    direct = scores_of(GroupSize(), numbered(5), ["x"] * 5, 2, groups)
    assert torch.equal(gathered.mean, direct.mean)
    assert torch.equal(gathered.components["size"], direct.components["size"])


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (Given([1.0, 2.0], components={"part": torch.ones(2)}, std=[1.0, 1.0]), "declares uncertainty=False"),
        (Given([1.0, 2.0], can=Capabilities(uncertainty=True)), "declares uncertainty=True"),
        (FunctionReward(lambda images, prompts: torch.ones(3)), "one score a picture"),
        (FunctionReward(lambda images, prompts: 1 / 0), "ZeroDivisionError"),
    ],
)
def test_a_reward_that_breaks_its_word_is_stopped(reward, says):
    with pytest.raises(RewardFailed, match=says):
        scores_of(reward, numbered(2), ["x"] * 2, 2)


def scored(mean: object, valid: object, **more: object) -> FunctionReward:
    """A class of a user's that says this of two pictures, whatever they are."""

    class Own(Reward):
        can = Capabilities(uncertainty="std" in more)

        def score(self, *, images, prompts):
            return Scores(mean, valid, **more)

    return Own()


YES = torch.tensor([True, True])


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (scored([1.0, 2.0], YES), "'mean' is a list, not a tensor"),
        (scored(torch.ones(2), torch.ones(2)), "'valid' is of torch.float32"),
        (scored(torch.ones(2), torch.tensor([1, 0])), "'valid' is of torch.int64"),
        (scored(torch.ones(2), YES[:1]), r"'valid' of 2 pictures has shape \(1,\)"),
        (scored(torch.ones(2), YES, components={"part": 1.0}), "'part' is a float"),
        (Given([1.0]), r"raised IndexError: .* \(test_reward.py, line \d+\)$"),
        (FunctionReward(lambda images, prompts: [1.0, None]), "NoneType"),
        (FunctionReward(lambda images, prompts: torch.ones(2, 1)), "one score a picture"),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(reward, says):
    """Alone, and where a sum or an ensemble would spread one number over all pictures."""
    for asked in (reward, Ensemble([reward, reward])):
        with pytest.raises(RewardFailed, match=says) as failure:
            scores_of(asked, numbered(2), ["x"] * 2, 2)
        assert "\n" not in str(failure.value)


def test_no_memory_is_not_a_failure_of_the_reward():
    """Whoever asked for so many pictures at once can ask for fewer."""

    class Large(Reward):
        def score(self, *, images, prompts):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        scores_of(Large(), numbered(2), ["x"] * 2, 2)


def test_a_doubt_that_is_none_is_a_failure():
    unsure = scored(torch.ones(2), YES, std=torch.tensor([torch.nan, -1.0]))
    assert not scores_of(unsure, numbered(2), ["x"] * 2, 2).valid.any()
    assert Scores.of(torch.tensor([1e300, 1.0], dtype=torch.float64)).valid.tolist() == [False, True]


def test_what_a_member_does_to_its_pictures_stays_with_it():
    """A score depends neither on the other members nor on what they do to what they are given."""

    def careless(images, prompts):
        return images.zero_().mean((1, 2, 3))

    class Careless(Reward):
        reference = torch.tensor([-1.0, 1.0])

        def score(self, *, images, prompts):
            return Scores.of(careless(images, prompts))

    bright = Given([1.0, 2.0])
    bright.reference = torch.tensor([0.0, 3.0])
    images = numbered(2)
    for first in (Careless(), FunctionReward(careless)):
        first.reference = Careless.reference
        together = scores_of(Ensemble([first, bright]), images, ["x"] * 2, 2)
        assert together.components["member 1"].tolist() == [1, 2]
        added = scores_of(Weighted({"a": (first, 1.0), "b": (bright, 1.0)}), images, ["x"] * 2, 2)
        assert added.components["b"].tolist() == [1, 2]
    assert torch.equal(images, numbered(2))


def test_one_score_too_few_is_stopped():
    class TooFew(Reward):
        def score(self, *, images, prompts):
            return Scores.of(torch.ones(1))

    with pytest.raises(RewardFailed, match=r"'mean' of 2 pictures has shape \(1,\)"):
        scores_of(TooFew(), numbered(2), ["x"] * 2, 2)


def test_a_misspelt_capability_is_an_error():
    with pytest.raises(TypeError):
        Capabilities(diferentiable=True)


def test_preference_by_the_scores():
    reward = Given([1.0, 2.0, torch.nan])
    images = numbered(3)
    preferred = reward.prefer(left=images[[1, 0, 1, 2]], right=images[[0, 1, 1, 0]], prompts=["x"] * 4)
    assert preferred.mean[:3].tolist() == [1, 0, 0.5]
    assert preferred.valid.tolist() == [True, True, True, False]


def test_percentiles_are_of_the_reference():
    reward = Given([1.0])
    with pytest.raises(ValueError, match="no reference"):
        reward.percentiles(torch.ones(1))
    reward.reference = torch.tensor([0.0, 1.0, 1.0, 4.0])
    assert reward.percentiles(torch.tensor([-1.0, 0.0, 1.0, 3.9, 4.0])).tolist() == [0, 0.25, 0.75, 0.75, 1]


def test_an_id_is_of_the_parts_and_their_borders():
    assert identity("a", "bc", "d") == identity("a", b"bc", b"d")
    assert (
        len({identity("a", "bc", "d"), identity("a", "b", "cd"), identity("a", "bcd"), identity("b", "bc", "d")}) == 4
    )


def test_the_id_of_a_function_is_that_of_its_file(tmp_path, monkeypatch):
    import importlib

    import reward_models

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    ids = []
    for body in ("images.mean((1, 2, 3))", "images.amax((1, 2, 3))"):
        (tmp_path / "rewards_with_an_id.py").write_text(f"def mine(images, prompts):\n    return {body}\n")
        importlib.invalidate_caches()
        monkeypatch.delitem(__import__("sys").modules, "rewards_with_an_id", raising=False)
        ids.append(reward_models.load("rewards_with_an_id:mine").id)
    assert ids[0].startswith("mine-")
    assert ids[0] != ids[1]
