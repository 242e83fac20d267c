"""From votes to a model on disk, end to end."""

import json
import math
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, config, head_config, write_pairs

import reward_models
from reward_models.bradley_terry import BradleyTerryConfig, learn
from reward_models.comparisons import Comparisons, compared, in_unit, pictures
from reward_models.measures import agreement
from reward_models.preference import STATISTICS, Network, PreferenceModel, statistics
from reward_models.recognise import RecogniseConfig, contrastive_loss, shifted
from reward_models.train import TrainRewardConfig, beside, noise_ceiling, train_reward
from rlhf_images import config as configs
from rlhf_images.config import build
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.errors import BadInput, NonFinite
from rlhf_images.preferences import Event, Pairs


def files(folder):
    return {
        name: (folder / name).read_bytes() for name in ("reward.safetensors", "reward.json", "card.json", "CARD.md")
    }


def test_learns_the_taste_and_says_how_well(trained):
    card = json.loads((trained / "card.json").read_text())
    assert card["held_out_accuracy"] >= 0.75
    low, high = card["held_out_accuracy_ci"]
    assert low <= card["held_out_accuracy"] <= high
    assert (card["pairs_train"], card["pairs_held_out"], card["ceiling"]) == (120, 40, 0.9)
    assert card["nll"] < math.log(2)
    assert card["head"]["brightness"] > 0.3
    assert card["alarms"] == []
    assert card["split"]["by"] == "picture"
    assert "| Held-out accuracy |" in (trained / "CARD.md").read_text()
    assert card["told"]["recognised"]["captions"] == 10
    assert list(card["measured"]["by_annotator"]) == ["script"]
    assert json.loads((trained / "run.json").read_text())["finished"]


def test_same_seed_same_bits_and_no_generator_is_touched(votes, trained, tmp_path):
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.set_num_threads(2)  # nor does the number of cores matter
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train_reward(config(votes, tmp_path / "again"))
    assert files(tmp_path / "again") == files(trained)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_a_model_does_not_hang_on_the_order_of_the_pairs(tmp_path):
    made = write_pairs(tmp_path / "pairs", 40)
    pictures = [
        ((made.folder / "images" / f"{name}.png").read_bytes(), picture) for name, picture in made.pictures.items()
    ]
    turned = Pairs.create(tmp_path / "turned", pictures[::-1], made.pairs[::-1])
    turned.store.add(made.store.events())
    shutil.copytree(made.folder / "labels", turned.folder / "labels")
    for name in ("pairs", "turned"):
        train_reward(head_config(tmp_path / name, tmp_path / f"{name} model"))
    one, other = files(tmp_path / "pairs model"), files(tmp_path / "turned model")
    assert one["reward.safetensors"] == other["reward.safetensors"]
    assert one["CARD.md"] == other["CARD.md"]


def test_the_tower_learns_where_asked(votes, trained, tmp_path):
    lesson = BradleyTerryConfig(epochs=2, batch=16, tower_lr=1e-3)
    train_reward(config(votes, tmp_path / "out", bradley_terry=lesson))
    ours, base = (PreferenceModel.load(folder).network.state_dict() for folder in (tmp_path / "out", trained))
    changed = {name for name in base if not torch.equal(ours[name], base[name])}
    assert any(name.startswith("clip.visual.") for name in changed)
    assert not any(name.startswith(("clip.transformer.", "clip.token")) for name in changed)


def test_a_tower_that_does_not_learn_looks_at_each_picture_once(votes, monkeypatch):
    """A large one takes seconds a picture. What comes back is of the head and bias that are kept."""
    pairs = Pairs(votes)
    data, model = compared(pairs.labelled()), PreferenceModel.new(TINY)
    seen = pictures(pairs, data, model.preprocessing.fitted, model.preprocessing.size)
    images = torch.stack([pairs.image(picture) for picture in data.ids])
    torch.testing.assert_close(in_unit(seen), images, rtol=0, atol=1e-7)
    looked, look = [], Network.evidence
    monkeypatch.setattr(Network, "evidence", lambda self, *given: looked.append(len(given[0])) or look(self, *given))
    score, _ = learn(model, data, seen, list(range(120)), BradleyTerryConfig(epochs=1), 0)
    assert sum(looked) == len(data.ids)
    torch.testing.assert_close(score, model.score(images=images, prompts=data.prompts).mean)
    assert float(score[data.shown(list(range(120)))].mean()) == pytest.approx(0, abs=1e-5)


def test_a_finished_run_is_left_alone(votes, trained, capsys):
    before = files(trained)
    train_reward(config(votes, trained))
    assert "already trained" in capsys.readouterr().out
    assert files(trained) == before


def test_votes_that_came_since_are_not_passed_over(tmp_path):
    write_pairs(tmp_path / "pairs", 24)
    votes = Pairs(tmp_path / "pairs")
    train_reward(head_config(tmp_path / "pairs", tmp_path / "out"))
    before = files(tmp_path / "out")
    train_reward(head_config(tmp_path / "pairs", tmp_path / "out"))
    votes.store.add([Event("late", "vote", votes.pairs[0].pair, "ann", "tie")])
    (tmp_path / "out-2").mkdir()
    with pytest.raises(BadInput, match=r"have changed since this model was trained.* out=\S+/out-3 trains another"):
        train_reward(head_config(tmp_path / "pairs", tmp_path / "out"))
    assert files(tmp_path / "out") == before
    train_reward(head_config(tmp_path / "pairs", beside(str(tmp_path / "out"))))


def test_ended_at_any_of_its_writes_the_same_command_gives_the_same_bits(tmp_path, monkeypatch):
    """The ends of real processes are in tests/test_kills.py; here is every place where one can come."""
    pairs = write_pairs(tmp_path / "pairs", 8).folder
    whole, torn = (replace(head_config(pairs, tmp_path / name / "reward"), probed=0) for name in ("whole", "torn"))
    train_reward(whole)
    written = Path.replace

    class Ended(BaseException):
        """What no ``except`` of ours catches."""

    for ends in range(1, 20):
        left = ends

        def counted(path, target):
            nonlocal left
            left -= 1
            if not left:
                raise Ended
            return written(path, target)

        monkeypatch.setattr(Path, "replace", counted)
        with suppress(Ended):
            train_reward(torn)
            break
        if (Path(torn.out) / "reward.json").is_file():
            reward_models.load(torn.out)  # it is written last, and names what was written before
        begun = (Path(torn.out) / "run.json").is_file()
        left_over = ".reward.safetensors.123" if begun else ".run.json.123"
        (Path(torn.out) / left_over).write_bytes(b"by a process that was killed")
        monkeypatch.setattr(Path, "replace", written)
        train_reward(torn)
        assert files(Path(torn.out)) == files(Path(whole.out))
        assert not list(Path(torn.out).glob(".*")), ends
        shutil.rmtree(torn.out)
    assert ends > 6


def test_save_then_load_gives_the_same_scores(trained, tmp_path):
    images, labels = digits(16)
    prompts = [DIGIT_CAPTIONS[label] for label in labels[:20]]
    model = PreferenceModel.load(trained)
    model.save(tmp_path)
    scores = [m.score(images=images[:20], prompts=prompts).mean for m in (model, reward_models.load(str(tmp_path)))]
    assert torch.equal(*scores)
    percentiles = model.percentiles(scores[0])
    assert ((percentiles >= 0) & (percentiles <= 1)).all()
    assert (percentiles[scores[0].argsort()].diff() >= 0).all()
    assert model.percentiles(torch.tensor([-1e9, 1e9])).tolist() == [0, 1]


def test_who_it_is_hangs_on_its_weights(trained):
    """What a remote client, a resumed run and an ensemble tell two models apart by."""
    model, other = PreferenceModel.load(trained), PreferenceModel.load(trained)
    assert model.id == other.id
    with torch.no_grad():
        other.network.head[0] += 1e-3
    assert model.id != other.id


def damage_architecture(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["architecture"]["vision_cfg"]["width"] = 32
    (folder / "reward.json").write_text(json.dumps(described))


def damage_preprocessing(folder):
    described = json.loads((folder / "reward.json").read_text())
    described["preprocessing"]["fit"] = "letterbox"
    (folder / "reward.json").write_text(json.dumps(described))


@pytest.mark.parametrize("damage", [value for name, value in dict(globals()).items() if name.startswith("damage_")])
def test_a_damaged_folder_is_refused_in_one_line(trained, tmp_path, damage):
    folder = shutil.copytree(trained, tmp_path / "copy")
    damage(folder)
    with pytest.raises(BadInput, match="copy") as refusal:
        reward_models.load(str(folder))
    assert "\n" not in str(refusal.value)


def test_no_votes_is_refused_and_nothing_written(tmp_path):
    write_pairs(tmp_path / "pairs", 4, vote=False)
    with pytest.raises(BadInput, match="rlhf-images label"):
        train_reward(config(tmp_path / "pairs", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("annotator", "says"), [("ann", "of ann"), (["ann", "bob"], "of ann, bob"), ([], "of nobody")])
def test_votes_of_others_do_not_count(votes, tmp_path, annotator, says):
    plain = {"pairs": str(votes), "out": str(tmp_path / "out"), "annotator": annotator, "model": {"name": "head"}}
    with pytest.raises(BadInput, match=f"no votes {says} in it"):
        train_reward(build(TrainRewardConfig, plain, "config"))


def test_a_mistake_that_is_found_late_leaves_the_folder_to_the_next_command(votes, tmp_path):
    out = tmp_path / "out"
    for name in ("none", "nothing"):
        model = {"name": "head", "features": {"open_clip": {"path": str(tmp_path / name)}}}
        wrong = build(TrainRewardConfig, {"pairs": str(votes), "out": str(out), "model": model}, "config")
        with pytest.raises(BadInput, match=f"{name}/open_clip_config.json"):
            train_reward(wrong)
        assert not out.exists()


def test_a_loss_that_explodes_is_refused(votes, tmp_path):
    with pytest.raises(NonFinite, match="recognise"):
        train_reward(config(votes, tmp_path / "out", recognise=RecogniseConfig(steps=10, batch=8, lr=1e30)))


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("ViT-Q-99", "open_clip has none of that name"),
        ("local-dir:/nowhere", "open_clip_config.json"),
        ({"embed_dim": 8}, "cannot build it"),
        ({**TINY, "vision_cfg": {**TINY["vision_cfg"], "widht": 3}}, "widht"),
        ({**TINY, "text_cfg": {"hf_model_name": "roberta-base"}}, "not open_clip's own"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(architecture, says):
    with pytest.raises(BadInput) as refusal:
        PreferenceModel.new(architecture)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_towers_from_a_local_folder(trained, tmp_path):
    from safetensors.torch import save_file

    clip = PreferenceModel.load(trained).network.clip
    described = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    with pytest.raises(BadInput, match=r"no \.safetensors"):
        PreferenceModel.new(f"local-dir:{tmp_path}")
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, tmp_path / "model.safetensors")
    model = PreferenceModel.new(f"local-dir:{tmp_path}")
    for name, tensor in clip.state_dict().items():
        assert torch.equal(model.network.clip.state_dict()[name], tensor)
    save_file({"visual.proj": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="not the weights"):
        PreferenceModel.new(f"local-dir:{tmp_path}")


def test_the_shipped_config_is_valid():
    shipped = configs.load(TrainRewardConfig, "digits/reward.yaml")
    assert shipped == TrainRewardConfig(pairs="runs/demo/pairs", out="runs/demo/reward")


def test_ceiling_is_weighted_by_votes(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 8)
    assert noise_ceiling(pairs) == 0.9
    pairs.store.add([Event(f"second {pair.pair}", "vote", pair.pair, "second", "left") for pair in pairs.pairs[:2]])
    (pairs.folder / "labels" / "second.json").write_text(
        json.dumps({"annotator": "second", "noise": 0.4, "ceiling": 0.6})
    )
    assert noise_ceiling(pairs) == pytest.approx((8 * 0.9 + 2 * 0.6) / 10)
    (pairs.folder / "labels" / "person.json").write_text(json.dumps({"annotator": "person", "ceiling": None}))
    assert noise_ceiling(pairs) == pytest.approx(0.84)
    (pairs.folder / "labels" / "broken.json").write_text("{")
    with pytest.raises(BadInput, match="broken"):
        noise_ceiling(pairs)
    assert noise_ceiling(Pairs(write_pairs(tmp_path / "other", 2, vote=False).folder)) is None


def test_a_person_who_repeats_themselves_has_a_ceiling_too(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 30, vote=False)

    def votes(count: int, again: bool, choice: str) -> None:
        pairs.store.add(
            [
                Event(f"{pair.pair} {again}", "vote", pair.pair, "ann", choice if i % 10 else "left", again=again)
                for i, pair in enumerate(pairs.pairs[:count])
            ]
        )

    votes(30, False, "right")
    assert noise_ceiling(pairs) is None
    votes(19, True, "right")
    assert noise_ceiling(pairs) is None
    votes(30, True, "right")
    assert noise_ceiling(pairs) == noise_ceiling(pairs, "ann") == 1
    assert noise_ceiling(pairs, "bob") is None


def test_agreement_leaves_ties_out_of_the_accuracy_only():
    left, right = torch.arange(4), torch.arange(4) + 4
    target, tie = torch.tensor([1.0, 0.0, 0.5, 0.75]), torch.tensor([0.0, 0.0, 1.0, 0.5])
    data = Comparisons([str(i) for i in range(8)], ["a"] * 8, left, right, target, tie, torch.ones(4))
    score = torch.tensor([2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    found = agreement(score, data, [0, 1, 2, 3], np.arange(4), 0)
    assert found.decided == 3
    assert found.accuracy == pytest.approx((1 + 0 + 0.5) / 3, abs=1e-6)
    p = 1 / (1 + math.exp(-2))
    assert found.nll == pytest.approx((-math.log(p) - math.log(1 - p) + 2 * math.log(2)) / 4, abs=1e-5)
    tied = agreement(score, data, [2], np.arange(4), 0)
    assert (tied.accuracy, tied.interval, tied.decided) == (None, None, 0)


def test_contrastive_loss_is_clips_where_captions_differ():
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(6)
    cross = torch.nn.functional.cross_entropy
    expected = (cross(similarity, target) + cross(similarity.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(similarity, torch.eye(6, dtype=torch.bool)), expected)
    torch.testing.assert_close(contrastive_loss(torch.zeros(6, 6), torch.ones(6, 6)), torch.tensor(math.log(6)))


def test_shift_moves_by_at_most_a_sixteenth():
    images = torch.zeros(2, 3, 32, 32)
    images[..., 16, 16] = 1
    places = set()
    for seed in range(60):
        moved = shifted(images, torch.Generator().manual_seed(seed))
        assert moved.shape == images.shape
        places.add(tuple((moved[0, 0] == 1).nonzero()[0].tolist()))
    assert {place for pair in places for place in pair} <= set(range(14, 19))
    assert len(places) > 10


def test_statistics_are_what_they_are_called():
    grey, white = torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 3, 8, 8)
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(1, 3, 8, 8)
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1
    found = dict(zip(STATISTICS, statistics(torch.cat([grey, white, board, red])).T.tolist(), strict=True))
    assert found["brightness"] == pytest.approx([0.5, 1.0, 0.5, 1 / 3])
    assert found["contrast"] == pytest.approx([0.0, 0.0, 0.5, 0.0], abs=1e-5)
    assert found["sharpness"] == pytest.approx([0.0, 0.0, 1.0, 0.0])
    assert found["saturation"] == pytest.approx([0.0, 0.0, 0.0, 1.0])
