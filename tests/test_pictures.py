"""Scores of pictures as people have them."""

import pytest
import torch
from PIL import Image

import reward_models
from rlhf_images.data import encode
from rlhf_images.pictures import score_pictures, trl_reward
from rlhf_images.reward import FunctionReward, Reward, Scores


class Recorded(Reward):
    """Brightness; remembers the size of every batch."""

    def __init__(self) -> None:
        self.batches = []

    def score(self, *, images, prompts):
        self.batches.append(tuple(images.shape))
        named = torch.tensor([float(prompt.split()[-1]) for prompt in prompts])
        return Scores.of(images.mean((1, 2, 3)), components={"prompt": named})


@pytest.fixture
def pictures():
    source = torch.Generator().manual_seed(0)
    sizes = [(8, 8), (6, 9), (8, 8), (6, 9), (5, 5), (8, 8), (8, 8), (6, 9)]
    return [torch.rand(3, *size, generator=source) for size in sizes]


@pytest.mark.parametrize("micro_size", [1, 2, 8])
def test_sizes_are_scored_together_and_answered_in_order(pictures, micro_size):
    reward = Recorded()
    prompts = [f"picture {i}" for i in range(8)]
    judged = score_pictures(reward, pictures, prompts, micro_size)
    torch.testing.assert_close(judged.scores.mean, torch.stack([image.mean() for image in pictures]))
    assert judged.scores.components["prompt"].tolist() == list(range(8))
    assert judged.failures == {}
    assert max(shape[0] for shape in reward.batches) <= micro_size
    assert len(reward.batches) < 8 or micro_size == 1


def test_pictures_of_many_sizes_do_not_pile_up():
    reward = Recorded()
    pictures = [torch.rand(3, 4, 4 + i) for i in range(30)]
    peak = []

    class Watched(list):
        def __getitem__(self, i):
            peak.append(i - len(reward.batches))
            return super().__getitem__(i)

    judged = score_pictures(reward, Watched(pictures), [f"x {i}" for i in range(30)], micro_size=2)
    assert judged.scores.valid.all()
    assert max(peak) <= 4 * 2 + 1


def test_every_kind_of_picture_is_the_same_picture(tmp_path, pictures):
    png = encode(pictures[0])
    path = tmp_path / "picture.png"
    path.write_bytes(png)
    kinds = [png, path, str(path), Image.open(path)]
    judged = score_pictures(Recorded(), kinds, ["x 0"] * 4)
    assert judged.scores.valid.all()
    assert judged.scores.mean.unique().numel() == 1


def test_what_cannot_be_read_has_a_reason_and_no_score(tmp_path, pictures):
    found = [pictures[0], tmp_path / "gone.png", b"GIF89a broken", torch.zeros(3, 0, 4), pictures[2]]
    judged = score_pictures(Recorded(), found, [f"x {i}" for i in range(5)])
    assert judged.scores.valid.tolist() == [True, False, False, False, True]
    assert judged.scores.mean.isnan().tolist() == [False, True, True, True, False]
    assert list(judged.failures) == [1, 2, 3]
    assert judged.failures[1] == "no such file"


def test_groups_are_scored_whole_or_not_at_all(pictures):
    reward = reward_models.load("diversity")
    groups = [0, 1, 0, 1, 2, 2, 0, 1]  # group 2 has two sizes
    judged = score_pictures(reward, pictures, ["x"] * 8, 2, groups)
    assert sorted(judged.failures) == [4, 5]
    assert "another size" in judged.failures[4]
    expected = reward.score(images=torch.stack([pictures[i] for i in (0, 2, 6)]), prompts=["x"] * 3).mean
    torch.testing.assert_close(judged.scores.mean[[0, 2, 6]], expected)
    broken = score_pictures(reward, [*pictures[:2], b"", *pictures[3:]], ["x"] * 8, 2, groups)
    assert sorted(broken.failures) == [0, 2, 4, 5, 6]


def test_pictures_and_prompts_are_paired(pictures):
    with pytest.raises(ValueError, match="8 pictures and 7 prompts"):
        score_pictures(Recorded(), pictures, ["x 1"] * 7)


def test_as_a_reward_function_of_trl(pictures, capsys):
    """As TRL calls it: prompts and completions by keyword, with every other column of the data set."""
    function = trl_reward(FunctionReward(lambda images, prompts: images.mean((1, 2, 3)) + len(prompts[0])), 4)
    pil = Image.fromarray((pictures[1] * 255).byte().permute(1, 2, 0).numpy())
    found = function(prompts=["ab"] * 3, completions=[pictures[0], b"broken", pil], ground_truth=["y"] * 3)
    assert found[0] == pytest.approx(2 + pictures[0].mean().item())
    assert found[1] is None
    assert isinstance(found[2], float)
    assert function.__name__.startswith("<lambda>-")
    assert "no score for picture 1 of 'ab': not a picture" in capsys.readouterr().out
    with pytest.raises(ValueError, match="needs whole groups"):
        trl_reward(reward_models.load("diversity"))
