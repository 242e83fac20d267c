"""Plans: against published counts, against measured memory, and as a person reads them."""

import dataclasses
import json

import pytest
import torch
from public_configs import write
from torch.profiler import ProfilerActivity, profile

from reward_models import load as load_reward
from rlhf_images.algorithms import ALGORITHMS
from rlhf_images.cards import CARDS, this_machine
from rlhf_images.cli import run as command
from rlhf_images.config import build
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import make_trainable
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.generators.tiny import build as build_pipeline
from rlhf_images.plan import changes, plan, table, text
from rlhf_images.policy import Policy
from rlhf_images.processes import Processes
from rlhf_images.randomness import Randomness
from rlhf_images.rehearsal import made_up_scores, rehearse

PROMPTS = ["a handwritten one", "a handwritten two"]
SIZES = {
    "tiny": (TinyConfig(layers=2, heads=1, channels=(8, 16), text_tokens=6), 16),
    "small": (TinyConfig(layers=4, heads=4, text_tokens=6), 32),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, (sizes, side) in SIZES.items():
        made[name] = tmp_path_factory.mktemp(name)
        build_pipeline(sizes, side, PROMPTS, seed=0).save_pretrained(made[name])
    return made


def config_of(folder, **changes):
    values = {
        "generator": {"path": str(folder), "steps": 3, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "reward": "rewards_for_tests:Light",
        "out": "unused",
        "prompts_per_step": 2,
        "group_size": 4,
        "lora": {"rank": 4, "alpha": 8},
        "evaluation": {"prompts": PROMPTS},
    }
    return build(FinetuneConfig, {**values, **changes}, "test")


WIDTH, LAYERS, PIXELS, TOKENS = 1536, 24, 1024, 1024 + 77 + 256
SD35_MEDIUM = 24 * LAYERS * WIDTH**2 * TOKENS + 4 * LAYERS * WIDTH * TOKENS**2
SD35_MEDIUM += 13 * (8 * WIDTH**2 * PIXELS + 4 * WIDTH * PIXELS**2)
"""By hand: blocks over pixels and text, and the second attention, over pixels alone, that 13 of them have."""
PUBLISHED = {
    "stable-diffusion-1.5": (512, 0.803e12, {}),
    "stable-diffusion-xl-base-1.0": (1024, 6.76e12, {}),
    "stable-diffusion-3.5-medium": (512, SD35_MEDIUM, {}),
    "flux.1-dev": (512, 21.5e12, {"embedded_guidance": 3.5}),
}


def published(name, folder, **changes):
    side, _, extra = PUBLISHED[name]
    call = {"path": str(write(name, folder)), "steps": 4, "height": side, "width": side, "dtype": "bfloat16", **extra}
    return config_of(folder, generator=call, reward="brightness", lora={"rank": 1, "alpha": 1}, **changes)


@pytest.mark.parametrize(
    "name",
    [name if name == "stable-diffusion-1.5" else pytest.param(name, marks=pytest.mark.campaign) for name in PUBLISHED],
)
def test_the_published_counts(name, tmp_path):
    """FLOPs of one forward of the real sizes: counted without a byte of weights."""
    rehearsal = rehearse(published(name, tmp_path, micro_size=1), load_reward)
    assert rehearsal.prediction.flops == pytest.approx(PUBLISHED[name][1], rel=0.02)
    assert any("a word is taken to be a token" in assumption for assumption in rehearsal.assumptions)


def held_at_most(work):
    """The peak of all that torch's own allocator gave out, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak, kept


def measured_peaks(config):
    """Of one micro-batch, while it is sampled, decoded alone and learnt from, above weights, moments and snapshots."""
    generator = Generator.load(config.generator)
    make_trainable(generator, config.lora, config.seed)
    policy = Policy(generator, config.algorithm.snapshots(), config.optimizer, Processes())
    prompts, randomness, reward = [PROMPTS[0]] * 8, Randomness(0), load_reward(config.reward)
    generator.encode_prompts(prompts)

    def sampled():
        return config.algorithm.rollout(generator, policy.snapshots, prompts, list(range(8)), randomness, 8)

    sampling, rollout = held_at_most(sampled)

    def decoded():
        with torch.no_grad():
            return generator.decode(prompts, rollout.x0)

    examples = config.algorithm.examples(rollout, made_up_scores(config, 8, policy.processes), generator, randomness)
    examples = examples.select(range(min(8, len(examples))))

    def learn():
        policy.update(config.algorithm, reward, examples, len(examples), 8, {})

    learn()
    policy.optimizer.zero_grad()
    return sampling, held_at_most(decoded)[0], held_at_most(learn)[0]


@pytest.mark.parametrize(
    ("size", "algorithm", "lora"),
    [
        ("tiny", "draft", {"rank": 4, "alpha": 8}),
        ("small", "nft", {"rank": 4, "alpha": 8}),
        ("small", "grpo", None),
        *(pytest.param("small", name, None, marks=pytest.mark.campaign) for name in ALGORITHMS),
    ],
)
def test_memory_is_what_the_allocator_gives(folders, size, algorithm, lora):
    config = config_of(folders[size], algorithm={"name": algorithm}, lora=lora)
    r = rehearse(config, load_reward, cpu=True)
    foretold = r.sampling_peak + 8 * r.picture, r.decoding_peak, r.learning_peak + 4 * r.trained
    assert foretold == pytest.approx(measured_peaks(config), rel=0.1)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_planned(name, folders):
    rehearsal = rehearse(config_of(folders["tiny"], algorithm={"name": name}), load_reward)
    assert rehearsal.learning.flops > 3 * rehearsal.prediction.flops * 0.6 * rehearsal.learnt
    assert not rehearsal.assumptions
    steps = rehearsal.sampling.flops / rehearsal.prediction.flops / rehearsal.micro
    assert steps == pytest.approx(3, rel=1e-3)


def test_more_cards_share_the_work_and_gradients_cross(folders):
    config = config_of(folders["tiny"])
    one, many = (plan(config, load_reward, CARDS["h200"], count) for count in (1, 4))
    assert many.flops == pytest.approx(one.flops / 4)
    assert one.gradient_bytes() == 0
    assert many.gradient_bytes() == 2 * 3 / 4 * 4 * (many.rehearsal.trained + 1)
    assert "gradients" in many.seconds(eager=True)
    assert sum(many.seconds(eager=True).values()) > sum(many.seconds(eager=False).values())


def test_what_does_not_fit_is_said_with_what_to_change(folders):
    config = config_of(folders["tiny"], micro_size=8)
    roomy = plan(config, load_reward, CARDS["rtx4090"], 1)
    assert roomy.fits
    assert changes(roomy, load_reward) == []
    least = plan(config_of(folders["tiny"], micro_size=4), load_reward, CARDS["rtx4090"], 1)
    memory = 1.01 * sum(least.memory().values())
    made = dataclasses.replace(roomy, card=dataclasses.replace(roomy.card, memory=memory))
    assert "DOES NOT FIT" in text(table(made))
    told = changes(made, load_reward)
    assert told[0].startswith("generator.text_encoders: offload")
    assert told[-1].startswith("micro_size: ")
    assert float(told[-1].split(": ")[-1].split()[0]) * 1e6 <= memory
    hopeless = dataclasses.replace(least, card=dataclasses.replace(least.card, memory=1))
    hopeless = dataclasses.replace(hopeless, config=dataclasses.replace(least.config, micro_size=1))
    told = changes(hopeless, load_reward)
    assert told[-2].startswith("generator.recompute_activations: true")
    assert told[-1] == "a card with more memory"


def test_the_command(folders, tmp_path, capsys):
    file = tmp_path / "config.json"
    values = {
        "generator": {"path": str(folders["tiny"]), "steps": 3, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "reward": "no_such_reward",
        "out": str(tmp_path / "run"),
        "prompts_per_step": 2,
        "group_size": 4,
        "evaluation": {"prompts": PROMPTS},
    }
    file.write_text(json.dumps(values))
    assert command(["plan", str(file), "lora.rank=2", "--card", "a100", "--gpus", "2"]) == 0
    told = capsys.readouterr().out
    assert "2 × a100" in told
    assert "assumed: reward: left out" in told
    assert not (tmp_path / "run").exists()
    assert command(["plan", str(file), "--card", "h900"]) == 2
    assert command(["plan", str(file), "--card", "h200", "--gpus", "9"]) == 2


def test_this_machine_is_measured():
    card = this_machine(torch.device("cpu"))
    assert card.measured
    assert min(card.single, card.half, card.bandwidth, card.launch) > 0
    assert card.rate(torch.float32) == card.single
