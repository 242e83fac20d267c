"""The head on frozen features: from votes to a folder and back, what it keeps, and what it refuses."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import head_config, write_pairs
from safetensors.torch import load_file, save_file

import reward_models
from reward_models.alarms import dead_head
from reward_models.comparisons import Comparisons, Split, compared, split
from reward_models.davidson import Newton, Votes
from reward_models.extractors import ClipFeatures, FeaturesConfig, StatisticsExtractor, extractors
from reward_models.family import Lesson
from reward_models.feature_cache import FeatureCache, decoded_before
from reward_models.head import BYTES, Head, Scale, directions
from reward_models.image_statistics import image_statistics, oklab
from reward_models.learning_curve import learning_curve
from reward_models.ridge import weighed
from reward_models.train import train_reward
from reward_models.train_head import features_of, learn
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.doubts import doubtful_first, expected_information
from rlhf_images.errors import BadInput
from rlhf_images.preferences import Event, Pairs


@pytest.fixture
def batch():
    images, labels = digits(16)
    return images[:20], [DIGIT_CAPTIONS[label] for label in labels[:20]]


def test_learns_the_taste_and_says_how_well(trained_head):
    card = json.loads((trained_head / "card.json").read_text())
    assert card["held_out_accuracy"] >= 0.75
    assert card["nll"] < 0.6
    assert card["head"]["lightness mean"] > 0
    assert "aspect" not in card["head"]  # all are square
    assert card["alarms"] == []


def test_load_gives_the_same_scores_and_the_same_doubts(trained_head, tmp_path, batch):
    images, prompts = batch
    head = Head.load(trained_head)
    head.save(tmp_path / "copy")
    scores = [m.score(images=images, prompts=prompts) for m in (head, reward_models.load(str(tmp_path / "copy")))]
    assert torch.equal(scores[0].mean, scores[1].mean)
    assert torch.equal(scores[0].std, scores[1].std)
    factors = head.doubts(images=images, prompts=prompts)
    torch.testing.assert_close(factors.square().sum(1).sqrt(), scores[0].std, rtol=1e-4, atol=1e-5)
    assert (head.reference.diff() >= 0).all()
    assert ((head.percentiles(scores[0].mean) >= 0) & (head.percentiles(scores[0].mean) <= 1)).all()
    preferred = head.preferred(scores[0].mean)
    by_hand = torch.sigmoid(scores[0].mean[3].double() - head.reference.double()).mean()
    assert float(preferred[3]) == pytest.approx(float(by_hand), abs=1e-6)
    assert (preferred[scores[0].mean.argsort()].diff() >= 0).all()


def test_what_to_label_next_is_where_the_posterior_is_wide(trained_head, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 40, vote=False)
    head = Head.load(trained_head)
    order = doubtful_first(pairs, {"head": head})
    assert order == doubtful_first(pairs, {"head": head}, "d_optimal")
    assert sorted(order) == sorted(pair.pair for pair in pairs.pairs)
    assert order != doubtful_first(pairs, {"head": head}, "disagreement")
    left, right, prompts = next(pairs.batches(pairs.pairs, 40))
    between = head.doubts(images=left, prompts=prompts) - head.doubts(images=right, prompts=prompts)
    margin = head.score(images=left, prompts=prompts).mean - head.score(images=right, prompts=prompts).mean
    width = between.square().sum(1)
    moderated = margin / (1 + math.pi / 8 * width).sqrt()
    told = torch.sigmoid(moderated) * torch.sigmoid(-moderated) * width
    assert order[0] == pairs.pairs[int(told.argmax())].pair
    pairs.store.add([Event(str(i), "vote", name, "ann", "left") for i, name in enumerate(order[:5])])
    later = doubtful_first(pairs, {"head": head})
    assert set(later[-5:]) == set(order[:5])
    pairs.store.add([Event(f"{i} too", "vote", name, "ann", "left") for i, name in enumerate(order[5:])])
    assert doubtful_first(pairs, {"head": head}) == [pair.pair for pair in pairs.pairs]


def test_features_are_kept_and_used(votes, trained_head, tmp_path, monkeypatch):
    """The second training decodes nothing, computes nothing, and gives the same bytes."""

    def refuse(*_):
        raise BadInput("computed again")  # which the pages take for a picture that is no longer there

    monkeypatch.setattr(Pairs, "image", refuse)
    monkeypatch.setattr(StatisticsExtractor, "blocks", refuse)
    train_reward(head_config(votes, tmp_path / "again"))
    for name in ("reward.safetensors", "reward.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained_head / name).read_bytes()


def test_a_damaged_cache_is_computed_anew(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 4)
    ids, prompts = zip(*[(side, pair.prompt) for pair in pairs.pairs for side in (pair.left, pair.right)], strict=True)
    first = FeatureCache(pairs, StatisticsExtractor())
    kept = first.blocks(ids, prompts)["statistics"]
    images = torch.stack([pairs.image(name) for name in ids])
    torch.testing.assert_close(kept, StatisticsExtractor().blocks(images, prompts)["statistics"])
    assert decoded_before(pairs) == set(ids)
    for damage in (b"", first.path.read_bytes()[:-9], b"\0" * 500):
        first.path.write_bytes(damage)
        assert torch.equal(FeatureCache(pairs, StatisticsExtractor()).blocks(ids, prompts)["statistics"], kept)
    more = FeatureCache(pairs, StatisticsExtractor())
    order = list(reversed(range(len(ids))))
    again = more.blocks([ids[i] for i in order], [prompts[i] for i in order])["statistics"]
    assert torch.equal(again, kept[order])


def test_an_interruption_costs_few_features(tmp_path, monkeypatch):
    """40 pictures are three batches; the last one's cannot be read."""
    pairs = write_pairs(tmp_path / "pairs", 20)
    rows = sorted(((pair.prompt, side) for pair in pairs.pairs for side in (pair.left, pair.right)), key=lambda r: r[0])
    prompts, ids = zip(*rows, strict=True)
    last = pairs.folder / "images" / f"{ids[-1]}.png"
    data = last.read_bytes()
    last.unlink()
    monkeypatch.setattr("reward_models.feature_cache.BETWEEN", 1)
    with pytest.raises(BadInput, match="corrupt picture"):
        FeatureCache(pairs, StatisticsExtractor()).blocks(ids, prompts)
    assert decoded_before(pairs) == set(ids[:32])
    last.write_bytes(data)
    whole = FeatureCache(pairs, StatisticsExtractor()).blocks(ids, prompts)["statistics"]
    images = torch.stack([pairs.image(name) for name in ids])
    torch.testing.assert_close(whole, StatisticsExtractor().blocks(images, prompts)["statistics"])


def test_features_by_prompt_are_kept_by_prompt(tmp_path, clip_folder):
    pairs = write_pairs(tmp_path / "pairs", 2)
    (extractor,) = extractors(FeaturesConfig(False, ClipFeatures(clip_folder))).values()
    picture = pairs.pairs[0].left
    found = FeatureCache(pairs, extractor).blocks([picture] * 2, ["a cat", "a dog"])
    assert torch.equal(found["image"][0], found["image"][1])
    assert not torch.allclose(found["product"][0], found["product"][1])
    torch.testing.assert_close(found["cosine"][:, 0], found["product"].sum(1))
    assert extractor.id != extractors(FeaturesConfig(False, ClipFeatures(clip_folder, ("image",))))["open_clip"].id


def test_a_head_on_a_clip(votes, tmp_path, clip_folder, batch):
    images, prompts = batch
    train_reward(head_config(votes, tmp_path / "out", features=FeaturesConfig(open_clip=ClipFeatures(clip_folder))))
    head = Head.load(tmp_path / "out")
    assert list(head.sizes) == ["statistics", "image", "product", "cosine"]
    scores = head.score(images=images.requires_grad_(True), prompts=prompts)
    scores.mean.sum().backward()
    assert torch.isfinite(images.grad).all()
    images.requires_grad_(False)
    weights = load_file(f"{clip_folder}/open_clip_model.safetensors")
    copy = shutil.copytree(clip_folder, tmp_path / "clip")
    described = json.loads((tmp_path / "out" / "reward.json").read_text())
    described["features"]["open_clip"]["path"] = str(copy)
    (tmp_path / "out" / "reward.json").write_text(json.dumps(described))
    again = Head.load(tmp_path / "out").score(images=images, prompts=prompts)
    torch.testing.assert_close(again.mean, scores.mean.detach(), rtol=1e-5, atol=1e-5)
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, copy / "open_clip_model.safetensors")
    with pytest.raises(BadInput, match="'open_clip' that its features come from is not the one"):
        Head.load(tmp_path / "out")


def test_the_average_training_picture_is_near_zero_and_best_known(votes):
    pairs = Pairs(votes)
    labelled = pairs.labelled()
    lesson = Lesson(pairs, labelled, compared(labelled), split(labelled, 0.25, 0), 0)
    blocks = features_of(lesson, extractors(FeaturesConfig()), "cpu")
    learnt, chosen = learn(blocks, lesson, None)
    x = learnt.scale(blocks["statistics"], [blocks["statistics"].shape[1]])
    score, std = x @ learnt.weights, learnt.posterior.std(x)
    assert float(score.mean().abs()) < 0.3 * float(score.std())
    far = learnt.posterior.std(10 * x)
    assert (far > 5 * std).all()
    assert chosen.folds == 5
    changed = [i for i in lesson.split.held_out if i % 2]
    lesson.data.target[changed] = 1 - lesson.data.target[changed]  # what is held out teaches nothing
    again, _ = learn(blocks, lesson, None)
    assert torch.equal(again.weights, learnt.weights)


def test_what_is_asked_again_and_again_teaches_caution_once():
    """Votes at random, each repeated: folds that part the copies of a pair take the memory of them for a taste."""
    source = torch.Generator().manual_seed(0)
    again, pairs = 6, 40
    rows = torch.arange(pairs).repeat_interleave(again)
    won = (torch.rand(pairs, generator=source) < 0.5).float()[rows]
    names = [str(i) for i in range(2 * pairs)]
    data = Comparisons(names, names, rows, rows + pairs, won, torch.zeros(len(rows)), torch.ones(len(rows)))
    blocks = {"noise": torch.randn(2 * pairs, 60, generator=source)}
    spreads = []
    for group in (rows, torch.arange(len(rows))):
        division = Split("prompt", list(range(len(rows))), [], group.numpy(), "")
        spreads.append(learn(blocks, Lesson(None, [], data, division, 0), None)[1].spread)
    assert spreads[0] <= 0.25
    assert spreads[1] >= 2


def test_what_is_learnt_is_the_minimum_by_the_temperature():
    """By hand: the fit under the ridge that was chosen, and both its weights and its doubts divided."""
    source = torch.Generator().manual_seed(2)
    x = torch.randn(120, 6, generator=source, dtype=torch.float64)
    left, right = torch.arange(60), torch.arange(60) + 60
    won = (torch.rand(60, generator=source) < torch.sigmoid(3 * (x[left] - x[right])[:, 0])).float()
    names = [str(i) for i in range(120)]
    data = Comparisons(names, names, left, right, won, torch.zeros(60), torch.ones(60))
    lesson = Lesson(None, [], data, Split("prompt", list(range(60)), [], np.arange(60), ""), 0)
    found = weighed(x, lesson, 0.4, 6)
    solver = Newton(x[left] - x[right], Votes.of(data))
    ridge = float((x - x.mean(0)).square().sum(1).mean()) / 0.4**2
    fit = solver.fit(ridge)
    assert abs(found.chosen.temperature - 1) > 0.05
    torch.testing.assert_close(found.weights * found.chosen.temperature, fit.weights, rtol=1e-6, atol=1e-9)
    hessian = solver.hessian((x[left] - x[right]) @ fit.weights, fit.width)
    dense = torch.linalg.inv(hessian + ridge * torch.eye(6, dtype=torch.float64)).diagonal().sqrt()
    ours = found.posterior.std(torch.eye(6, dtype=torch.float64)) * found.chosen.temperature
    torch.testing.assert_close(ours, dense, rtol=1e-6, atol=1e-9)


def test_a_pair_of_twice_the_weight_counts_as_two():
    source = torch.Generator().manual_seed(1)
    x = torch.randn(80, 5, generator=source, dtype=torch.float64)
    data, twice = (
        Comparisons(
            [str(i) for i in range(80)],
            ["p"] * 80,
            rows,
            rows + 40,
            (rows % 3 / 2).float(),
            (rows % 3 == 1).float(),
            torch.where((rows < 10) & (rows.shape[0] == 40), 2.0, 1.0),
        )
        for rows in (torch.arange(40), torch.cat([torch.arange(40), torch.arange(10)]))
    )
    fits = [Newton(x[one.left] - x[one.right], Votes.of(one)).fit(1.0) for one in (data, twice)]
    torch.testing.assert_close(fits[0].weights, fits[1].weights, rtol=1e-6, atol=1e-8)
    assert fits[0].width == pytest.approx(fits[1].width, rel=1e-6)
    assert fits[0].width > 0


def test_where_no_picture_differs_nothing_is_learnt_and_that_is_told(votes):
    """As where a judge answers every question with yes."""
    pairs = Pairs(votes)
    labelled = pairs.labelled()
    lesson = Lesson(pairs, labelled, compared(labelled), split(labelled, 0.25, 0), 0)
    learnt, _ = learn({"same": torch.full((len(lesson.data.ids), 5), 7.0)}, lesson, None)
    assert torch.equal(learnt.weights, torch.zeros(5))
    assert torch.isfinite(learnt.posterior.std(torch.randn(3, 5))).all()
    x = torch.zeros(len(lesson.data.ids), 5)
    assert dead_head(float((x @ learnt.weights).std()), math.log(2)) is not None
    curve = learning_curve(x, lesson.data, lesson.split.group, 1.0, 0)
    assert curve.gain == 0


def test_blocks_are_worth_the_same_and_dead_columns_nothing():
    source = torch.Generator().manual_seed(0)
    blocks = {"few": torch.randn(500, 2, generator=source), "many": 7 + 0.01 * torch.randn(500, 100, generator=source)}
    blocks["few"] = torch.cat([blocks["few"], torch.full((500, 1), 3.0)], 1)
    scale = Scale.of(blocks)
    x = scale(torch.cat(list(blocks.values()), 1), [3, 100])
    few, many = x.square().sum(1).mean(), x[:, 3:].square().sum(1).mean()
    assert float(few - many) == pytest.approx(float(many), rel=0.15)
    assert (x[:, 2] == 0).all()
    far = scale(torch.full((1, 103), 1e9), [3, 100])
    assert torch.isfinite(far).all()
    assert float(far[0, 2]) == 0


@pytest.mark.parametrize("columns", [1, 30, 400, 1024, 3072, 20_000])
def test_a_head_stays_under_a_megabyte_and_keeps_what_fits(columns):
    kept = directions(columns)
    assert 4 * columns * (3 + kept) + 4 * kept < 1_000_000
    assert kept == columns or (kept >= 1 and 4 * columns * (5 + kept) > BYTES)


def damage_blocks(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["blocks"]["statistics"] = 3
    (folder / "reward.json").write_text(json.dumps(described))


def damage_features(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["features"]["statistic"] = True
    (folder / "reward.json").write_text(json.dumps(described))


def damage_reference(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["reference"] = ["a"]
    (folder / "reward.json").write_text(json.dumps(described))


def damage_reference_number(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["reference"] = 1.0
    (folder / "reward.json").write_text(json.dumps(described))


def damage_reference_nan(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["reference"][3] = math.nan  # by which every percentile would be wrong
    (folder / "reward.json").write_text(json.dumps(described))


def damage_rest(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["rest"] = -1.0
    (folder / "reward.json").write_text(json.dumps(described))


def damage_range(folder):
    described = json.loads((folder / "reward.json").read_text())
    del described["range"]
    (folder / "reward.json").write_text(json.dumps(described))


@pytest.mark.parametrize("damage", [value for name, value in dict(globals()).items() if name.startswith("damage_")])
def test_a_damaged_folder_is_refused_in_one_line(trained_head, tmp_path, damage):
    folder = shutil.copytree(trained_head, tmp_path / "copy")
    damage(folder)
    with pytest.raises(BadInput, match="copy") as refusal:
        reward_models.load(str(folder))
    assert "\n" not in str(refusal.value)


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="no features"):
        FeaturesConfig(statistics=False)
    with pytest.raises(ValueError, match="parts"):
        ClipFeatures("x", ())


def test_statistics_are_what_they_are_called():
    white, black = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    red = torch.stack([torch.ones(16, 16), torch.zeros(16, 16), torch.zeros(16, 16)])[None]
    images = torch.cat([white, black, ramp, ramp.mT, red])
    found = {name: values.tolist() for name, values in image_statistics(images).items()}
    assert found["lightness mean"][:2] == pytest.approx([1, 0.01], abs=0.01)
    assert found["lightness mean"][4] == pytest.approx(0.628, abs=0.01)  # OKLab of #ff0000, as published
    assert found["green-red mean"][4] == pytest.approx(0.225, abs=0.01)
    assert found["blue-yellow mean"][4] == pytest.approx(0.126, abs=0.01)
    assert found["chroma mean"][:4] == pytest.approx([0, 0, 0, 0], abs=1e-3)
    assert found["lighter right"][2] > 0.15 > abs(found["lighter right"][3])
    assert found["lighter below"][3] == pytest.approx(found["lighter right"][2])
    assert found["left-right asymmetry"][3] == pytest.approx(0)
    assert found["left-right asymmetry"][2] > 0.4
    assert found["aspect"] == [0] * 5
    assert found["colourfulness"] == pytest.approx([0, 0, 0, 0, 0.3 * 1.25**0.5], abs=1e-3)  # red: rg = 1, yb = ½
    assert found["hue 0°"][4] + found["hue 60°"][4] > 0.99 > 0.05 > found["hue 180°"][4] + found["hue 240°"][4]
    assert found["hues on one axis"][4] == pytest.approx(1, abs=1e-3)
    assert found["colour variety, fine"] == pytest.approx([0, 0, math.log(8), math.log(8), 0], abs=0.15)  # eight greys
    halves = torch.cat([red[..., :8], 1 - red[..., 8:]], 3)
    two = image_statistics(halves)
    assert float(two["colour variety, fine"]) == pytest.approx(math.log(2), abs=1e-3)
    assert float(two["hues on one axis"]) > 0.9 > 0.6 > float(two["hue agreement"])  # cyan is across from red
    wide = image_statistics(torch.rand(1, 3, 1, 64))
    assert float(wide["aspect"]) == pytest.approx(6)
    assert all(torch.isfinite(value).all() for value in wide.values())


def test_colours_have_a_slope_everywhere():
    pixels = torch.tensor([0.0, 0.02, 0.04045, 0.5, 1.0]).expand(1, 3, 1, 5).clone().requires_grad_(True)
    oklab(pixels)[0, 0].sum().backward()
    assert torch.isfinite(pixels.grad).all()
    assert (pixels.grad.sum(1) > 0).all()


def test_a_large_picture_is_measured_as_a_small_one():
    source = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(source, scale_factor=16, mode="bicubic").clamp(0, 1)
    larger = torch.nn.functional.interpolate(large, scale_factor=2, mode="bicubic").clamp(0, 1)
    found = [image_statistics(images) for images in (large, larger)]
    for name in found[0]:
        assert float(found[0][name]) == pytest.approx(float(found[1][name]), abs=0.02), name


def test_what_a_vote_is_expected_to_tell_is_the_mean_over_the_posterior():
    """Against 200,001 places of the Gaussian: the approximation is of the mean slope, not of the slope at the mean."""
    place = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    chance = torch.exp(-place.square() / 2)
    for margin in (0.0, 1.0, -3.0):
        for std in (0.1, 1.0, 4.0):
            p = torch.sigmoid(margin + std * place)
            mean = float((chance * p * (1 - p)).sum() / chance.sum())
            between = torch.tensor([[0.6, 0.8]], dtype=torch.float64) * std
            told = expected_information(torch.tensor([margin], dtype=torch.float64), between)
            assert float(told.square().sum()) / std**2 == pytest.approx(mean, rel=0.2)
            torch.testing.assert_close(told / told.norm(), between / std)
