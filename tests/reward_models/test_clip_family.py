"""A CLIP that learns from votes: what it learns, what stays as it was, and that open_clip reads what came of it."""

import dataclasses
import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY, one_thread
from torch.nn.functional import binary_cross_entropy_with_logits

import reward_models
from reward_models.adapters import Adapters
from reward_models.architecture import built, new_towers, tokens
from reward_models.clip_preference import HEAD, WEIGHTS, ClipPreference, Network
from reward_models.comparisons import Comparisons, Split, compared, split
from reward_models.family import Lesson
from reward_models.pair_training import Ended, Eye, PairTraining, averaged, log_loss, passes, watched, weights
from reward_models.train import TrainRewardConfig, train_reward
from reward_models.train_clip import ClipConfig, adapted, decayed, open_towers
from rlhf_images import config as configs
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.errors import BadInput
from rlhf_images.preferences import Pairs

BRISK = PairTraining(
    steps=60, batch=32, micro_size=32, lr=3e-3, warmup=5, weight_decay=0.0, validation=0.2, every=15, patience=9
)


def lesson(votes, seed=0) -> Lesson:
    pairs = Pairs(votes)
    labelled = pairs.labelled()
    return Lesson(pairs, labelled, compared(labelled), split(labelled, 0.25, 0), seed)


def family(**changes) -> ClipConfig:
    return ClipConfig(**{"architecture": TINY, "open_image": 1.0, "open_text": 1.0, "training": BRISK, **changes})


def quick(**changes) -> ClipConfig:
    few = dataclasses.replace(BRISK, steps=3, batch=8, micro_size=8, validation=0.0)
    return family(training=few, **changes)


def taught(config: ClipConfig, given: Lesson) -> ClipPreference:
    torch.manual_seed(7)  # TINY's weights are drawn from it
    return config.taught(given).model


@pytest.fixture(scope="session")
def fine_tuned(votes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "reward"
    with one_thread():
        train_reward(TrainRewardConfig(str(votes), str(folder), model=family(head_lr=0.01)))
    return folder


def test_learns_the_taste_and_says_how_well(fine_tuned):
    card = json.loads((fine_tuned / "card.json").read_text())
    assert card["held_out_accuracy"] >= 0.75
    assert card["nll"] < 0.62
    assert card["alarms"] == []
    model = reward_models.load(str(fine_tuned))
    assert isinstance(model, ClipPreference)
    assert len(model.reference) > 100
    assert model.reference.diff().min() >= 0


def test_open_clip_reads_it_and_agrees(fine_tuned):
    images, labels = digits(16)
    prompts = [DIGIT_CAPTIONS[label] for label in labels[:6]]
    model = reward_models.load(str(fine_tuned))
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{fine_tuned}")
    theirs.eval()
    assert preprocess.transforms[0].size in (16, (16, 16))
    pixels = torch.stack([preprocess(_pil(image)) for image in images[:6]])
    with torch.no_grad():
        seen = theirs.encode_image(pixels, normalize=True)
        read = theirs.encode_text(open_clip.tokenize(prompts, TINY["text_cfg"]["context_length"]), normalize=True)
        expected = theirs.logit_scale.exp() * (seen * read).sum(-1) + seen @ model.head
    whole = (images[:6] * 255).round() / 255
    torch.testing.assert_close(model.score(images=whole, prompts=prompts).mean, expected, rtol=1e-5, atol=1e-5)


def _pil(image):
    from PIL import Image

    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def test_the_card_measures_what_the_saved_model_says(fine_tuned, votes):
    given = lesson(votes)
    model = reward_models.load(str(fine_tuned))
    sides = []
    for side in (given.data.left[given.split.held_out], given.data.right[given.split.held_out]):
        images = torch.stack([given.pairs.image(given.data.ids[i]) for i in side])
        sides.append(model.score(images=images, prompts=[given.data.prompts[i] for i in side]).mean)
    right = (sides[0] > sides[1]) == (given.data.target[given.split.held_out] > 0.5)
    card = json.loads((fine_tuned / "card.json").read_text())
    assert card["held_out_accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-5)


@pytest.mark.parametrize("name", [WEIGHTS, HEAD, "reward.json", "open_clip_config.json"])
def test_a_damaged_folder_is_refused_in_one_line(fine_tuned, tmp_path, name):
    folder = shutil.copytree(fine_tuned, tmp_path / "copy")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-9])
    with pytest.raises(BadInput, match="copy") as refusal:
        reward_models.load(str(folder))
    assert "\n" not in str(refusal.value)


def test_the_gradient_of_soft_labels_ties_and_weights_is_the_closed_form(votes):
    """d/ds_left of w · (-q log σ(d) - (1 - q) log σ(-d)) is w (σ(d) - q) / B."""
    from reward_models import trl_trainer as trl

    table = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    left, right = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([6, 7, 8, 9, 10, 0])
    target = torch.tensor([1.0, 0.5, 0.75, 0.0, 0.3, 0.5], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.25, 1.0, 0.5, 1.25], dtype=torch.float64)

    class Model:
        def __call__(self, rows):
            return type("Output", (), {"logits": table[rows][:, None]})

    trainer = object.__new__(trl.PicturePairs)
    trainer.penalty, trainer.lesson = None, "test"
    inputs = {"rows": torch.cat([left, right]), "target": target.float(), "weight": weight.float()}
    loss = trainer.compute_loss(Model(), inputs)
    loss.backward()
    d = (table[left] - table[right]).detach()
    expected = torch.zeros(12, dtype=torch.float64)
    step = weight * (torch.sigmoid(d) - target) / 6
    expected.index_add_(0, left, step).index_add_(0, right, -step)
    torch.testing.assert_close(table.grad, expected, rtol=1e-5, atol=1e-7)
    by_hand = -(weight * (target * torch.log(torch.sigmoid(d)) + (1 - target) * torch.log(torch.sigmoid(-d)))).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_prompts_count_the_same():
    prompts = ["a", "a", "a", "b", "c"]
    rows = torch.arange(5)
    data = Comparisons(
        list("01234"), prompts, rows, rows, torch.ones(5), torch.zeros(5), torch.tensor([1.0, 1, 2, 1, 9])
    )
    found = weights(data, [0, 1, 2, 3], by_prompt=True)
    assert found[:4].mean() == pytest.approx(1)
    torch.testing.assert_close(found[:3].sum(), found[3])
    torch.testing.assert_close(found[:3] / found[0], torch.tensor([1.0, 1.0, 2.0]))
    torch.testing.assert_close(weights(data, [0, 1, 2, 3], by_prompt=False)[:4], torch.tensor([0.8, 0.8, 1.6, 0.8]))


def test_pairs_that_hang_together_are_all_watched_or_all_learnt_from():
    division = Split("picture", list(range(60)), [], np.arange(60) // 3, "")
    teach, watch = watched(division, 0.3, 0)
    assert sorted(teach + watch) == list(range(60))
    assert len(watch) == 18
    assert not {pair // 3 for pair in teach} & {pair // 3 for pair in watch}


def test_what_is_watched_is_new(votes):
    given = lesson(votes).split
    teach, watch = watched(given, 0.2, 3)
    assert sorted(teach + watch) == sorted(given.train)
    assert not {int(given.group[i]) for i in teach} & {int(given.group[i]) for i in watch}
    assert 0.1 * len(given.train) < len(watch) <= 0.25 * len(given.train)
    assert watched(given, 0.2, 4)[1] != watch
    one = Split("prompt", [0, 1], [], torch.zeros(2).long().numpy(), "")
    assert watched(one, 1.0, 0) == ([0, 1], [])


def test_the_weights_that_were_best_on_what_is_watched_are_kept():
    layer = torch.nn.Linear(1, 1)
    losses = iter([0.9, 0.5, 0.6, 0.7, 0.8])
    eye = Eye(layer, lambda: next(losses), dataclasses.replace(BRISK, steps=100, every=10, patience=3))
    went_on = []
    for step in range(41):
        with torch.no_grad():
            layer.weight.fill_(step)
        went_on.append(eye.look(step))
    assert went_on == [True] * 40 + [False]
    eye.restore()
    assert layer.weight.item() == 10
    assert (eye.step, eye.best, eye.first) == (10, 0.5, 0.9)


def test_a_run_that_ruins_everything_leaves_the_start(votes):
    """The start competes: what is worse on the watched pairs is not kept."""
    ruinous = family(training=dataclasses.replace(BRISK, steps=8, lr=5.0, every=4, patience=2, validation=0.3))
    torch.manual_seed(7)
    start = new_towers(TINY).clip.state_dict()
    torch.manual_seed(7)
    result = ruinous.taught(lesson(votes))
    kept = {name: torch.equal(value, start[name]) for name, value in result.model.clip.model.state_dict().items()}
    assert result.told["watched_nll"][0] <= result.told["watched_nll_before"]
    assert all(kept.values()) == (result.told["kept_steps"] == [0])


@pytest.mark.parametrize("adapters", [None, Adapters(rank=2, alpha=4)], ids=["open", "adapters"])
def test_runs_are_averaged(votes, adapters):
    config = quick(adapters=adapters, head_lr=0.01)
    alone = [taught(config, lesson(votes, seed)) for seed in (5, 6)]
    both = taught(dataclasses.replace(config, runs=2), lesson(votes, 5))
    states = [model.clip.model.state_dict() for model in (*alone, both)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name, value in states[2].items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(both.head, (alone[0].head + alone[1].head) / 2)


def test_averaged_starts_each_run_alike():
    layer = torch.nn.Linear(1, 1, bias=False)
    begun = []

    def run(number):
        begun.append(layer.weight.item())
        with torch.no_grad():
            layer.weight.add_(10.0**number)
        return Ended(number, None, None)

    start = layer.weight.item()
    assert [ended.step for ended in averaged(layer, run, 3)] == [0, 1, 2]
    assert begun == [start] * 3
    assert layer.weight.item() == pytest.approx(start + 37.0)


def test_adapters_learn_and_merge(votes):
    """The merged towers are plain ones, and score as the towers with adapters did."""
    clip = built(TINY).eval()
    plain = {name: value.clone() for name, value in clip.state_dict().items()}
    wrapped = adapted(clip, Adapters(rank=2, alpha=4))
    learnt = {name for name, weight in wrapped.named_parameters() if weight.requires_grad}
    assert learnt
    assert all("lora_" in name for name in learnt)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    text = tokens(["one", "two"], TINY)
    with torch.no_grad():
        before = wrapped.encode_image(pixels), wrapped.encode_text(text)
        wrapped.merge_and_unload()
        after = clip.encode_image(pixels), clip.encode_text(text)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert clip.state_dict().keys() == plain.keys()
    assert {n for n, v in clip.state_dict().items() if not torch.equal(v, plain[n])} >= {
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.0.mlp.c_fc.weight",
    }
    model = taught(quick(adapters=Adapters(rank=2, alpha=4)), lesson(votes))
    torch.manual_seed(7)
    start = new_towers(TINY).clip.state_dict()
    moved = {n for n, v in model.clip.model.state_dict().items() if not torch.equal(v, start[n])}
    assert {"visual.transformer.resblocks.0.attn.in_proj_weight", "transformer.resblocks.0.mlp.c_fc.weight"} <= moved
    assert "logit_scale" not in moved


@pytest.mark.parametrize(("image", "text", "learns"), [(0.6, 0.45, None), (1.0, 0.0, "visual."), (0.0, 1.0, "text")])
def test_what_is_closed_stays_as_it_was(image, text, learns):
    six = {
        **TINY,
        "vision_cfg": {**TINY["vision_cfg"], "layers": 6},
        "text_cfg": {**TINY["text_cfg"], "layers": 4},
    }
    clip = built(six)
    open_towers(clip, image, text)
    opened = {name for name, weight in clip.named_parameters() if weight.requires_grad}
    assert "logit_scale" in opened
    if learns is None:  # 5 of 8 groups: the projection and four blocks; 3 of 6: the projection and two blocks
        blocks = {name.split(".")[3] for name in opened if name.startswith("visual.transformer")}
        assert blocks == {"2", "3", "4", "5"}
        assert {name.split(".")[2] for name in opened if name.startswith("transformer")} == {"2", "3"}
        assert {"visual.proj", "text_projection"} <= opened
        assert not {"visual.conv1.weight", "token_embedding.weight", "positional_embedding"} & opened
    else:
        of_image = {name.startswith("visual.") for name in opened - {"logit_scale"}}
        assert of_image == {learns == "visual."}


def test_gains_biases_and_the_scale_do_not_decay():
    clip = built(TINY)
    matrices, others = decayed(clip.parameters())
    names = {id(weight): name for name, weight in clip.named_parameters()}
    assert sorted(names[id(weight)] for group in (matrices, others) for weight in group["params"]) == sorted(
        names.values()
    )
    assert others["weight_decay"] == 0
    kept = {names[id(weight)] for weight in others["params"]}
    assert {"logit_scale", "visual.ln_post.weight", "transformer.resblocks.0.mlp.c_fc.bias"} <= kept
    assert not {"visual.proj", "visual.conv1.weight", "token_embedding.weight"} & kept
    assert "weight_decay" not in matrices
    assert decayed([clip.logit_scale]) == [{"params": [clip.logit_scale], "weight_decay": 0.0}]


def test_nothing_to_learn_is_refused(votes):
    with pytest.raises(BadInput, match="nothing of it learns"):
        taught(quick(open_image=0.0, open_text=0.0), lesson(votes))


def test_micro_size_changes_nothing(votes):
    """Steps of eight pairs, in one pass or in four. Weights without a gradient, as keys' biases, may wander in Adam."""
    images, labels = digits(16)
    given = {"images": images[:20], "prompts": [DIGIT_CAPTIONS[label] for label in labels[:20]]}
    config = quick()
    scores = []
    for micro in (8, 2):
        few = dataclasses.replace(config.training, micro_size=micro)
        scores.append(taught(dataclasses.replace(config, training=few), lesson(votes)).score(**given).mean)
    torch.manual_seed(7)
    start = ClipPreference(new_towers(TINY)).score(**given).mean
    assert (scores[0] - start).abs().max() > 0.05
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("pairs", "expected"), [(1000, (16, 8)), (128, (16, 8)), (113, (16, 7)), (97, (16, 6)), (5, (5, 1)), (1, (1, 1))]
)
def test_a_number_of_pairs_with_no_divisors_does_not_cost_a_pass_each(pairs, expected):
    assert passes(PairTraining(batch=128, micro_size=16), pairs) == expected


def test_log_loss_is_of_the_weighted_pairs(votes):
    from reward_models import trl_trainer as trl

    given = lesson(votes)
    network = Network(built(TINY), False, 16)
    scorer, text = trl.Scorer(network, network.forward), tokens(given.data.prompts, TINY)
    pixels = torch.rand(len(given.data.ids), 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def inputs(rows):
        return {"pixels": pixels[rows], "tokens": text[rows[: len(rows) // 2]]}

    weight = torch.rand(len(given.data.target), generator=torch.Generator().manual_seed(1))
    found = log_loss(scorer, trl.Collator(given.data, inputs, weight), given.split.held_out, 7)
    rows = torch.tensor(given.split.held_out)
    with torch.no_grad():
        left, right = (network(pixels[side[rows]], text[side[rows]]) for side in (given.data.left, given.data.right))
    expected = binary_cross_entropy_with_logits(left - right, given.data.target[rows], weight[rows], reduction="sum")
    assert found == pytest.approx(float(expected / weight[rows].sum()), rel=1e-5)


def test_the_shipped_config_is_valid():
    shipped = configs.load(TrainRewardConfig, "clip/reward.yaml")
    assert isinstance(shipped.model, ClipConfig)
    assert shipped.model.training == PairTraining()
