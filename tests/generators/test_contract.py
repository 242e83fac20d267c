"""What every generator promises (architecture §5), over the table of families."""

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from families import FAMILIES, PROMPTS, TARGETS, family, full, plain_call

from rlhf_images.generators import Generator, GeneratorConfig, Trajectory
from rlhf_images.generators.lora import LoraConfig, check_trainable, load_trained, make_trainable, save_trained
from rlhf_images.math import kernels
from rlhf_images.math.path import Rectified, over
from rlhf_images.randomness import Randomness

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in (".* is deprecated", "Initializing zero-element")
]
"""What diffusers and transformers say to their own authors while a pipeline is loaded."""

PAIR = PROMPTS[:2]


@dataclass(frozen=True)
class Made:
    name: str
    generator: Generator
    config: GeneratorConfig
    kernel: kernels.Kernel
    drawn: Trajectory
    """Pictures of PAIR by the stochastic kernel."""


def noise(index):
    return Randomness(0).generators("sample", index)


def stochastic(generator):
    return kernels.cps(0.7) if isinstance(generator.path, Rectified) else kernels.ddim(1.0)


@functools.lru_cache(maxsize=1)
def pristine(name):
    return family(name)


def fresh(name) -> tuple[Any, GeneratorConfig]:
    pipe, config = pristine(name)
    return copy.deepcopy(pipe), config


def made_of(name):
    pipe, config = fresh(name)
    generator = Generator(pipe, config)
    kernel = stochastic(generator)
    return Made(name, generator, config, kernel, generator.sample(PAIR, noise([0, 1]), kernel))


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    return made_of(request.param)


@pytest.fixture(scope="module", params=full())
def whole(request):
    return made_of(request.param)


def test_ode_sampling_is_the_plain_pipeline(made):
    """Against the pipeline's own call with diffusers' solver of first order, one prompt at a time.

    All of its prompts at once is not always the same thing: Qwen-Image 2.1, Kandinsky 3 and CogView4 then let a picture
    depend on how long its neighbour's prompt is.
    """
    pipe, config = fresh(made.name)
    theirs = torch.cat([plain_call(pipe, made.name, noise([i]), PAIR[i : i + 1]) for i in (0, 1)])
    if getattr(pipe, "image_processor", None) is None:
        theirs = (theirs / 2 + 0.5).clamp(0, 1)
    if theirs.shape[1] == 4:
        theirs = theirs[:, :3] * theirs[:, 3:] + 1 - theirs[:, 3:]
    ours = made.generator.sample(PAIR, noise([0, 1])).images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.shape == (2, 3, config.height, config.width)
    assert 0 <= ours.min() < ours.max() <= 1


def test_replayed_predictions_are_the_sampled_ones(made):
    """From the recorded x and t alone the kernel's Gaussian comes back, the same bits."""
    for step in range(made.config.steps):
        t, t_next = (made.drawn.times[i].expand(2) for i in (step, step + 1))
        x, x_next = made.drawn.x_TB[step : step + 2]
        with torch.no_grad():
            prediction = made.generator.predict(PAIR, x, t)
        gaussian = made.kernel(made.generator.path, prediction, x, t, t_next)
        assert torch.equal(gaussian.mean, made.drawn.gaussians[step].mean)
        assert torch.equal(gaussian.std, made.drawn.gaussians[step].std)
        if gaussian.std.all():
            assert torch.isfinite(gaussian.log_prob(x_next)).all()
        else:
            assert torch.equal(gaussian.mean, x_next)


def test_predictions_decompose_x_and_read_each_sample_s_own_time(made):
    x, t = made.drawn.x_TB[0], torch.tensor([0.9, 0.3])
    with torch.no_grad():
        together = made.generator.predict(PAIR, x, t)
        apart = [made.generator.predict(PAIR[i : i + 1], x[i : i + 1], t[i : i + 1]) for i in (0, 1)]
    path = made.generator.path
    again = over(path.alpha(t), x) * together.x0 + over(path.sigma(t), x) * together.eps
    torch.testing.assert_close(again, x, rtol=0, atol=1e-5)
    scale = together.x0.abs().max()
    torch.testing.assert_close(together.x0 / scale, torch.cat([p.x0 for p in apart]) / scale, rtol=0, atol=1e-5)


def test_a_batch_is_its_pictures_one_by_one(made):
    """Though their prompts have different lengths."""
    alone = [made.generator.sample(PAIR[i : i + 1], noise([i]), made.kernel).images for i in (0, 1)]
    torch.testing.assert_close(torch.cat(alone), made.drawn.images, rtol=0, atol=1e-5)


def test_decoding_is_the_pipeline_s_own_with_a_gradient(whole):
    x0 = whole.drawn.x_TB[-1].clone().requires_grad_()
    images = whole.generator.decode(PAIR, x0)
    torch.testing.assert_close(images.detach(), whole.drawn.images, rtol=0, atol=1e-6)
    images.sum().backward()
    assert all(x0.grad[i].abs().sum() > 0 for i in (0, 1))


def test_pictures_become_the_latents_that_are_decoded_to_them(whole):
    """But for the autoencoder's loss, which is that of its own reconstruction, without a pipeline around it."""
    generator, shape = whole.generator, whole.drawn.images.shape
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    x0 = generator.encode(PAIR, images)
    assert x0.shape == whole.drawn.x_TB[-1].shape
    assert generator.shapes(PAIR[0]) == (x0[0].shape, shape[1:])
    vae = getattr(generator.pipe, "vae", None) or generator.pipe.movq
    found = generator.decode(PAIR, x0)
    pixels = images * 2 - 1
    if vae.config.get("in_channels", vae.config.get("input_channels", 3)) == 4:
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
    answer = vae.encode(pixels[:, :, None] if "Qwen" in type(vae).__name__ else pixels)
    z = answer.latent_dist.mode() if hasattr(answer, "latent_dist") else answer[0]
    with torch.no_grad():
        again = vae.decode(z, **({"force_not_quantize": True} if "VQ" in type(vae).__name__ else {})).sample
    again = (again[:, :, 0] if again.ndim == 5 else again) / 2 + 0.5
    if again.shape[1] == 4:
        again = again.clamp(0, 1)
        again = again[:, :3] * again[:, 3:] + 1 - again[:, 3:]
    torch.testing.assert_close(found, again.clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "all weights"])
def test_only_the_denoiser_learns_and_others_read_what_was_learnt(whole, lora, tmp_path):
    """alpha ≠ rank: a file that loses the scale would draw other pictures."""
    pipe, config = fresh(whole.name)
    generator = Generator(pipe, config)
    targets = {"target_modules": TARGETS[whole.name]} if whole.name in TARGETS else {}
    adapters = LoraConfig(rank=2, alpha=16, **targets) if lora else None
    make_trainable(generator, adapters, seed=0)
    untuned = generator.sample(PAIR, noise([0, 1]), whole.kernel)
    # adapters change nothing before the first update
    torch.testing.assert_close(untuned.images, whole.drawn.images, rtol=0, atol=1e-6)

    with torch.no_grad():
        for i, parameter in enumerate(generator.parameters.values()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    generator.predict(PAIR, untuned.x_TB[1], torch.full((2,), 0.5)).x0.square().sum().backward()
    without = [name for name, p in generator.parameters.items() if p.grad is None and "siglip" not in name]
    # the last block of an MM-DiT drops its text stream, whose own layers may exist and stay unused
    assert len(without) <= 0.2 * len(generator.parameters), without
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module) and component is not generator.denoiser:
            assert not any(p.requires_grad or p.grad is not None for p in component.parameters()), name

    tuned = generator.sample(PAIR, noise([0, 1]), whole.kernel).images
    assert (tuned - untuned.images).abs().max() > 5e-4
    save_trained(generator, adapters, tmp_path)
    plain, _ = fresh(whole.name)
    if lora and hasattr(plain, "load_lora_weights") and (tmp_path / "pytorch_lora_weights.safetensors").exists():
        plain.load_lora_weights(tmp_path)
        other = Generator(plain, config)
    else:
        other = Generator(plain, config)
        load_trained(other, tmp_path)
    torch.testing.assert_close(other.sample(PAIR, noise([0, 1]), whole.kernel).images, tuned, rtol=0, atol=1e-5)


def test_a_saved_pipeline_is_loaded_and_draws_the_same_without_its_text_encoders(whole, tmp_path):
    pipe, config = fresh(whole.name)
    pipe.save_pretrained(tmp_path / "pipe", safe_serialization=True)
    here = {"path": str(tmp_path / "pipe"), "prompt_cache": str(tmp_path / "prompts"), "text_encoders": "drop"}
    config = dataclasses.replace(config, **here)
    check_trainable(config, LoraConfig(target_modules=TARGETS.get(whole.name, LoraConfig().target_modules)))
    generator = Generator.load(config)
    generator.remember(PAIR)
    assert not any(name.startswith("text_encoder") and part for name, part in generator.pipe.components.items())
    drawn = generator.sample(PAIR, noise([0, 1]), whole.kernel)
    torch.testing.assert_close(drawn.images, whole.drawn.images, rtol=0, atol=1e-6)
    assert list((tmp_path / "prompts").rglob("*.safetensors"))


def test_the_pipeline_gets_its_own_parts_back(whole):
    pipe, config = fresh(whole.name)
    shipped, config_before = pipe.scheduler, copy.deepcopy(dict(pipe.config))
    generator = Generator(pipe, config)
    state = torch.get_rng_state()
    generator.sample(PAIR, noise([0, 1]))
    generator.predict(PAIR, whole.drawn.x_TB[0], torch.full((2,), 0.5))
    assert pipe.scheduler is shipped
    assert dict(pipe.config) == config_before
    assert "prepare_latents" not in pipe.__dict__
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is nobody's


def test_the_pipeline_runs_where_its_denoiser_is_and_keeps_its_name(whole):
    pipe = copy.deepcopy(whole.generator.pipe)
    assert pipe._execution_device == whole.generator.device
    assert type(pipe).__name__ == type(pristine(whole.name)[0]).__name__
    setattr(pipe, whole.generator.component, getattr(pipe, whole.generator.component).to("meta"))
    assert pipe._execution_device == torch.device("meta")
    assert whole.generator.pipe._execution_device == whole.generator.device


@pytest.mark.parametrize("name", ["SD1.5 v, DDIM", "SD3", "FLUX.1", "Qwen-Image", "Z-Image", "CogView4"])
def test_half_precision_keeps_latents_in_float32_and_replays_exactly(name):
    pipe, config = family(name)
    generator = Generator(pipe.to(torch.bfloat16), dataclasses.replace(config, dtype="bfloat16"))
    make_trainable(generator, LoraConfig(rank=2, alpha=4), seed=0)
    assert {p.dtype for p in generator.parameters.values()} == {torch.float32}
    kernel = stochastic(generator)
    trajectory = generator.sample(PAIR, noise([0, 1]), kernel)
    assert {x.dtype for x in trajectory.x_TB} == {torch.float32}
    assert {g.mean.dtype for g in trajectory.gaussians} == {torch.float32}
    t, t_next = (trajectory.times[i].expand(2) for i in (1, 2))
    prediction = generator.predict(PAIR, trajectory.x_TB[1], t)
    gaussian = kernel(generator.path, prediction, trajectory.x_TB[1], t, t_next)
    assert torch.equal(gaussian.mean, trajectory.gaussians[1].mean)
    prediction.x0.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in generator.parameters.values() if p.grad is not None)
