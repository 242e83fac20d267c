"""Offline DPO: the votes become the loss they should, and the run is as steady as any other."""

import json
import math
import uuid
from pathlib import Path

import pytest
import torch
from forked import launched
from safetensors.torch import load_file
from test_sharding import asks_for_fsdp

from reward_models import load as load_reward
from rlhf_images.config import build
from rlhf_images.data import encode
from rlhf_images.dpo import DiffusionDPO, DPOConfig, Voted, dpo
from rlhf_images.errors import BadInput
from rlhf_images.evaluate import evaluate
from rlhf_images.generate import GenerateConfig, generate
from rlhf_images.generators import Generator, GeneratorConfig
from rlhf_images.generators.lora import LoraConfig, make_trainable
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.generators.tiny import build as build_pipeline
from rlhf_images.lessons import Lessons, fitted
from rlhf_images.math.objectives import voted_dpo
from rlhf_images.policy import OptimizerConfig, Policy
from rlhf_images.preferences import Event, Pairs, Picture, PreferencePair, latents
from rlhf_images.preferences.pairs import picture_id
from rlhf_images.processes import Processes

PROMPTS = ["a handwritten one", "a handwritten two"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    pipe = build_pipeline(TinyConfig(layers=2, heads=1, channels=(8, 16), text_tokens=6), 16, PROMPTS, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(pipe.transformer.parameters()):
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    pipe.save_pretrained(folder)
    return {"path": str(folder), "steps": 3, "call": {"max_sequence_length": 6}}


@pytest.fixture(scope="module")
def pairs(generator, tmp_path_factory):
    """Eight pairs of drawn pictures; the brighter one is chosen."""
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    values = {"generator": generator, "prompts": PROMPTS, "out": str(folder), "pairs_per_prompt": 4}
    generate(build(GenerateConfig, values, "test"))
    made = Pairs(folder)
    for pair in made.pairs:
        brighter = made.image(pair.left).mean() > made.image(pair.right).mean()
        vote(made, pair.pair, "left" if brighter else "right")
    return folder


def vote(pairs, pair, choice, annotator="me"):
    pairs.store.add([Event(str(uuid.uuid4()), "vote", pair, annotator, choice)])


@pytest.fixture
def config(generator, pairs, tmp_path):
    return {
        "generator": generator,
        "pairs": str(pairs),
        "reward": "brightness",
        "out": str(tmp_path / "run"),
        "steps": 4,
        "pairs_per_step": 6,
        "times_per_pair": 2,
        "beta": 100.0,
        "micro_size": 6,
        "lora": {"rank": 2, "alpha": 4},
        "optimizer": {"lr": 3e-3},
        "average_decay": 0.5,
        "checkpoint_every": 2,
        "evaluation": {"prompts": PROMPTS, "seeds_per_prompt": 2, "every": 2},
    }


def run(config, **changes):
    values = {**config, **changes}
    dpo(build(DPOConfig, values, "test"), load_reward)
    return result(values["out"])


def result(out):
    """Weights, and the log without its times."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if not k.startswith(("seconds_", "images_per"))} for row in rows]
    return load_file(Path(out) / "pytorch_lora_weights.safetensors"), kept


def assert_same(first, second, tolerance):
    for name, value in first[0].items():
        torch.testing.assert_close(second[0][name], value, rtol=0, atol=tolerance)
    for a, b in zip(first[1], second[1], strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=max(10 * tolerance, 1e-12))


@pytest.mark.parametrize("share", [1.0, 0.75, 0.0])
def test_the_loss_of_divided_votes_is_least_where_the_policy_is_as_sure_as_they_are(share):
    beta, right = 50.0, torch.zeros(1, dtype=torch.float64)
    difference = torch.linspace(-0.2, 0.2, 4001, dtype=torch.float64)
    losses = voted_dpo(difference, right.expand(4001), torch.full((4001,), share, dtype=torch.float64), beta)
    z = beta / 2 * -difference
    expected = [
        -share * math.log(1 / (1 + math.exp(-v))) - (1 - share) * math.log(1 / (1 + math.exp(v))) for v in z.tolist()
    ]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    best = float(z[losses.argmin()])
    if 0 < share < 1:
        assert best == pytest.approx(math.log(share / (1 - share)), abs=2e-3)
    else:
        assert best == pytest.approx(5.0 if share else -5.0)


def made(generator):
    return Generator.load(build(GeneratorConfig, generator, "test"))


def test_both_pictures_are_noised_alike_and_the_loss_is_the_paper_s(generator):
    """Written out by hand, in float64, from what the network says of each picture alone."""
    tuned = made(generator)
    make_trainable(tuned, LoraConfig(rank=2, alpha=4), seed=0)
    policy = Policy(tuned, ("reference",), OptimizerConfig(), Processes())
    draw = torch.Generator().manual_seed(0)
    left, right, eps = (torch.randn(3, *tuned.shapes(PROMPTS[0])[0], generator=draw) for _ in range(3))
    t, share, weight = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1.0, 0.0, 0.75]), torch.tensor([1.0, 0.5, 1.0])
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    batch = Voted([0, 1, 2], prompts, left, right, eps, t, share, weight)
    first, told = DiffusionDPO(7.0).loss(tuned, policy.snapshots, None, batch)
    torch.testing.assert_close(first, weight * math.log(2), rtol=1e-6, atol=1e-6)  # the policy is the reference
    errors = {"reference": [_error(tuned, prompts, x0, eps, t) for x0 in (left, right)]}
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters.values()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    errors["policy"] = [_error(tuned, prompts, x0, eps, t) for x0 in (left, right)]
    moved = [after - before for after, before in zip(errors["policy"], errors["reference"], strict=True)]
    z = -7.0 / 2 * (moved[0] - moved[1])
    expected = -weight * (share * torch.sigmoid(z).log() + (1 - share) * torch.sigmoid(-z).log())
    loss, told = DiffusionDPO(7.0).loss(tuned, policy.snapshots, None, batch)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    chosen = torch.tensor([True, False, True])
    won, lost = torch.where(chosen, *moved), torch.where(chosen, *moved[::-1])
    assert told["dpo_accuracy"].tolist() == (won < lost).double().tolist()
    torch.testing.assert_close(told["error_change/won"].double(), won, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def _error(generator, prompts, x0, eps, t):
    x = (1 - t).view(-1, 1, 1, 1) * x0 + t.view(-1, 1, 1, 1) * eps
    said = [generator.predict(prompts[i : i + 1], x[i : i + 1], t[i : i + 1]) for i in range(len(x0))]
    velocity = torch.cat([p.eps - p.x0 for p in said]).double()
    return ((velocity - (eps - x0).double()) ** 2).mean((1, 2, 3))


def test_it_learns_who_was_chosen_continues_and_is_the_same_by_two_processes(config, tmp_path):
    whole = run(config, out=str(tmp_path / "whole"), steps=8, beta=1000.0)
    assert [row["step"] for row in whole[1]] == list(range(1, 9))
    assert whole[1][0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert whole[1][0]["dpo_accuracy"] == 0  # nothing has changed yet: no winner's error fell more
    assert whole[1][-1]["loss"] < math.log(2) - 0.01
    assert whole[1][-1]["dpo_accuracy"] > 0.6
    values = {**config, "steps": 8, "beta": 1000.0}
    run(values)
    out = Path(config["out"])
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "finished": False}))
    (out / "checkpoints" / "step_00000008" / "manifest.json").unlink()
    (out / "pytorch_lora_weights.safetensors").unlink()
    assert_same(whole, run(values), 0)
    assert_same(whole, run(values, out=str(tmp_path / "micro"), micro_size=1), 1e-4)

    rarely = {"checkpoint_every": 8, "evaluation": {**config["evaluation"], "every": 8}}
    for name, before in {"two": None, "in parts": asks_for_fsdp}.items():
        launch = launched("dpo", {**values, **rarely, "out": str(tmp_path / name)}, 2, before)
        assert launch.codes() == [0, 0], launch.said
        assert_same(whole, result(tmp_path / name), 1e-4)


def test_all_weights_are_learnt_too(config):
    dpo(build(DPOConfig, {**config, "lora": None, "steps": 1}, "test"), load_reward)
    assert list(Path(config["out"], "transformer").glob("*.safetensors"))


def test_what_was_drawn_keeps_its_latents_and_what_was_not_is_encoded(generator, pairs, tmp_path):
    """And a folder in which one file of latents is of another picture, one is damaged, and a picture is larger."""
    tuned = made(generator)
    drawn = Lessons(Pairs(pairs), None)
    one, other = list(drawn.by_id.values())[:2]
    left, right = drawn.latents(tuned, [one], 4)
    assert torch.equal(left[0], latents.kept(pairs, one.pair.left))
    assert torch.equal(right[0], latents.kept(pairs, one.pair.right))

    images = [drawn.pairs.image(name) for name in (one.pair.left, other.pair.left)]
    large = torch.nn.functional.interpolate(images[1][None], scale_factor=2, mode="nearest")[0]
    data = [encode(images[0]), encode(large)]
    pictures = [(content, Picture(picture_id(content), PROMPTS[0], 0, i, {})) for i, content in enumerate(data)]
    ids = [picture.id for _, picture in pictures]
    foreign = Pairs.create(tmp_path / "foreign", pictures, [PreferencePair("0", PROMPTS[0], *ids)])
    latents.keep(foreign.folder, ids[0], right[0])
    (foreign.folder / "latents" / f"{ids[1]}.safetensors").write_bytes(b"damaged")
    vote(foreign, "0", "left")
    lessons = Lessons(foreign, None)
    found = lessons.latents(tuned, list(lessons.by_id.values()), 1)
    whole = torch.stack([images[0], fitted(large, 16, 16)])
    torch.testing.assert_close(torch.cat(found), tuned.encode([PROMPTS[0]] * 2, whole), rtol=0, atol=1e-5)
    assert (found[0][0] - right[0]).abs().max() > 0.01


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (30, 10)])
def test_a_picture_of_another_shape_is_covered_and_cut_in_the_middle(height, width):
    stripes = torch.linspace(0, 1, 40).expand(3, 40, 40)
    found = fitted(stripes, height, width)
    assert found.shape == (3, height, width)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert 0 <= found.min() <= found.max() <= 1


def copied(pairs, tmp_path):
    content = [((pairs / "images" / f"{p.id}.png").read_bytes(), p) for p in Pairs(pairs).pictures.values()]
    return Pairs.create(tmp_path / "copy", content, Pairs(pairs).pairs)


def test_divided_votes_are_a_share_and_ties_are_left_out(pairs, tmp_path):
    voted = copied(pairs, tmp_path)
    first, second, third = (pair.pair for pair in voted.pairs[:3])
    for annotator, choices in {"a": ("left", "tie"), "b": ("left", "left"), "c": ("right", "right")}.items():
        vote(voted, first, choices[0], annotator)
        vote(voted, second, choices[1], annotator)
    vote(voted, third, "both_bad")
    lessons = Lessons(voted, None)
    assert {name: one.preference for name, one in lessons.by_id.items()} == {first: pytest.approx(2 / 3)}
    assert Lessons(voted, "c").by_id.keys() == {first, second}
    assert lessons.prompts == [voted.pairs[0].prompt]


def test_pairs_that_teach_nothing_and_votes_that_changed_are_refused(config, pairs, tmp_path):
    voted = copied(pairs, tmp_path)
    values = {**config, "pairs": str(voted.folder), "steps": 1}
    vote(voted, voted.pairs[0].pair, "tie")
    with pytest.raises(BadInput, match="1 labelled pairs, none of which can be learnt from"):
        run(values)
    assert not Path(config["out"]).exists()
    vote(voted, voted.pairs[1].pair, "left")
    run(values)
    record = json.loads(Path(config["out"], "run.json").read_text())
    Path(config["out"], "run.json").write_text(json.dumps({**record, "finished": False}))
    vote(voted, voted.pairs[2].pair, "left")
    with pytest.raises(BadInput, match="its votes have changed"):
        run(values)


def test_a_run_on_pairs_is_evaluated_with_and_without_guidance(config, capsys):
    evaluation = {**config["evaluation"], "final_seeds_per_prompt": 2, "other_guidance": 3.0}
    values = {**config, "steps": 1, "evaluation": evaluation, "optimizer": {"lr": 0.1}}
    dpo(build(DPOConfig, values, "test"), load_reward)
    evaluate(config["out"], load_reward)
    summary = json.loads(Path(config["out"], "summary.json").read_text())
    other = summary["other_guidance"]
    assert other["guidance"] == 3.0
    assert other["base"]["reward"] != pytest.approx(summary["reward_base"], abs=1e-5)  # guidance draws other pictures
    assert other["tuned"]["reward"] != pytest.approx(other["base"]["reward"], abs=1e-6)
    assert "at guidance 3" in capsys.readouterr().out
