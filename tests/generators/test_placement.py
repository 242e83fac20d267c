"""What costs memory and time changes no picture; and what cannot be had is refused before a weight is read."""

import dataclasses

import pytest
import torch
from families import PROMPTS, family

from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator
from rlhf_images.generators.loading import check
from rlhf_images.generators.lora import LoraConfig, make_trainable
from rlhf_images.randomness import Randomness

PAIR = PROMPTS[:2]

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (".* is deprecated", "The .grad attribute of")]


def answers(name, **changes):
    """The pictures of two prompts, the loss of one prediction, and the gradients of all adapters."""
    pipe, config = family(name)
    generator = Generator(pipe, dataclasses.replace(config, **changes))
    make_trainable(generator, LoraConfig(rank=2, alpha=4), seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(generator.parameters.values()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    drawn = generator.sample(PAIR, Randomness(0).generators("sample", [0, 1]))
    loss = generator.predict(PAIR, drawn.x_TB[1], torch.full((2,), 0.5)).x0.square().mean()
    loss.backward()
    gradients = [p.grad.flatten() for p in generator.parameters.values() if p.grad is not None]
    return generator, drawn.images, loss.detach(), torch.cat(gradients)


CHANGES = {
    "recomputed": {"recompute_activations": True},
    "compiled": {"compile": "eager"},
    "attention": {"attention": "native"},
    "offloaded": {"offload_vae": True, "text_encoders": "offload"},
}


CASES = [
    *((name, change) for name in ("SD1.5 guided", "SD3") for change in ("recomputed", "offloaded")),
    *(("FLUX.1", change) for change in CHANGES),
    *(("Z-Image", change) for change in CHANGES if change != "compiled"),
    ("Qwen-Image", "attention"),
]
"""A U-Net's attention is its own, and neither it nor SD3's transformer names blocks that repeat: see below."""


@pytest.mark.parametrize(("name", "change"), CASES)
def test_how_it_is_computed_changes_nothing(name, change):
    _, images, loss, gradient = answers(name)
    generator, other_images, other_loss, other_gradient = answers(name, **CHANGES[change])
    if change == "recomputed":
        assert any(getattr(module, "gradient_checkpointing", False) for module in generator.denoiser.modules())
    torch.testing.assert_close(other_images, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_dropped_encoders_know_the_run_s_prompts_and_no_other(tmp_path):
    pipe, config = family("SD3")
    generator = Generator(pipe, dataclasses.replace(config, text_encoders="drop"))
    generator.remember(PAIR)
    assert generator.pipe.text_encoder_3 is None
    drawn = generator.sample(PAIR, Randomness(0).generators("sample", [0, 1]))
    plain, config = family("SD3")
    again = Generator(plain, config).sample(PAIR, Randomness(0).generators("sample", [0, 1]))
    torch.testing.assert_close(drawn.images, again.images, rtol=0, atol=1e-6)
    with pytest.raises(BadInput, match=r"set 'generator\.text_encoders: offload'"):
        generator.sample(["fog over a lake"], Randomness(0).generators("sample", [0]))


def drawn_with(folder, name="SD3", stir=None):
    pipe, config = family(name)
    if stir is not None:
        stir(pipe)
    generator = Generator(pipe, dataclasses.replace(config, prompt_cache=str(folder)))
    encoder = {"runs": 0}
    forward = pipe.text_encoder_3.forward

    def counted(*arguments, **settings):
        encoder["runs"] += 1
        return forward(*arguments, **settings)

    pipe.text_encoder_3.forward = counted
    images = generator.sample(PROMPTS[:1], Randomness(0).generators("sample", [0])).images
    return images, encoder["runs"]


def test_encodings_are_kept_on_disk_a_damaged_one_is_made_anew_and_other_weights_have_others(tmp_path, capsys):
    first, runs = drawn_with(tmp_path)
    assert runs
    again, runs = drawn_with(tmp_path)
    assert runs == 0
    assert torch.equal(first, again)
    (entry,) = tmp_path.rglob("*.safetensors")
    sound = entry.read_bytes()
    for damage in (sound[:-8] + b"\0" * 8, sound[: len(sound) // 2], b"", sound.replace(b"digest", b"digesT")):
        entry.write_bytes(damage)
        again, runs = drawn_with(tmp_path)
        assert runs, "a damaged entry was used"
        assert torch.equal(first, again)
        assert "made anew" in capsys.readouterr().out
        assert drawn_with(tmp_path)[1] == 0

    def stir(pipe):
        with torch.no_grad():
            pipe.text_encoder_3.shared.weight.add_(0.5)

    other, runs = drawn_with(tmp_path, stir=stir)
    assert runs
    assert not torch.equal(first, other)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("FLUX.1", {"compile": "indcutor"}, "no backend 'indcutor'"),
        ("SD3", {"compile": "eager"}, "names no repeated blocks"),
        ("SD3", {"attention": "flsh"}, "no backend 'flsh'"),
        ("PRX", {"guidance": 3.0, "negative_prompt": "x", "embedded_guidance": 2.0}, "takes none; remove it"),
        ("FLUX.1", {"embedded_guidance": None}, "set 'generator.embedded_guidance'"),
        ("FLUX.1 schnell", {"negative_prompt": "blur"}, "without guidance it has no effect"),
        ("FLUX.2-klein distilled", {"guidance": 3.0}, "is distilled and cannot be guided"),
        ("SD1.5", {"steps": 1}, "begin at"),
    ],
)
def test_what_cannot_be_had_is_refused_on_configs_alone(tmp_path, name, changes, words):
    pipe, config = family(name)
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"garbage")
    with pytest.raises(BadInput, match=words):
        check(dataclasses.replace(config, path=str(tmp_path), **changes))
