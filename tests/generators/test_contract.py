"""What every generator promises (architecture §5), over the table of families."""

import copy
import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler
from families import FAMILIES, PROMPTS, family

from rlhf_images.config import plain
from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator, GeneratorConfig
from rlhf_images.generators.lora import LoraConfig, load_trained, make_trainable, save_trained
from rlhf_images.math import kernels
from rlhf_images.math.path import Rectified, over
from rlhf_images.randomness import Randomness


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    pipe, config = family(request.param)
    return Generator(pipe, config)


def noise(index):
    return Randomness(0).generators("sample", index)


def stochastic(generator):
    return kernels.cps(0.7) if isinstance(generator.path, Rectified) else kernels.ddim(1.0)


def test_ode_sampling_is_the_plain_pipeline(made):
    """Against the pipeline's own call with its solver; DDIM stands for the solvers of the variance-preserving ones."""
    pipe, config = family(made.config.path)
    if not isinstance(made.path, Rectified):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    settings = {**config.call, "guidance_scale": config.guidance, "height": 16, "width": 16}
    plain_images = pipe(
        prompt=PROMPTS, generator=noise([0, 1, 2]), num_inference_steps=config.steps, output_type="pt", **settings
    ).images
    ours = made.sample(PROMPTS, noise([0, 1, 2]))
    torch.testing.assert_close(ours.images, plain_images, rtol=0, atol=2e-5)
    assert ours.images.shape == (3, 3, 16, 16)
    assert 0 <= ours.images.min() <= ours.images.max() <= 1


def test_replayed_predictions_are_the_sampled_ones(made):
    """From the recorded x and t alone, the kernel's Gaussian comes back: the ratio at the first update is 1."""
    kernel = stochastic(made)
    trajectory = made.sample(PROMPTS, noise([0, 1, 2]), kernel)
    for step in range(made.config.steps):
        t, t_next = (trajectory.times[i].expand(3) for i in (step, step + 1))
        with torch.no_grad():
            prediction = made.predict(PROMPTS, trajectory.x_TB[step], t)
        gaussian = kernel(made.path, prediction, trajectory.x_TB[step], t, t_next)
        if gaussian.std.all():
            replayed, sampled = (g.log_prob(trajectory.x_TB[step + 1]) for g in (gaussian, trajectory.gaussians[step]))
            assert torch.isfinite(replayed).all()
            torch.testing.assert_close((replayed - sampled).exp(), torch.ones(3), rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close(gaussian.mean, trajectory.x_TB[step + 1], rtol=0, atol=1e-5)


def test_predictions_decompose_x_and_read_each_sample_s_own_time(made):
    x = made.sample(PROMPTS, noise([0, 1, 2])).x_TB[0]
    t = torch.tensor([0.9, 0.5, 0.2])
    with torch.no_grad():
        together = made.predict(PROMPTS, x, t)
        apart = [made.predict(PROMPTS[i : i + 1], x[i : i + 1], t[i : i + 1]) for i in range(3)]
    again = over(made.path.alpha(t), x) * together.x0 + over(made.path.sigma(t), x) * together.eps
    torch.testing.assert_close(again, x, rtol=0, atol=1e-5)
    scale = together.x0.abs().max()
    torch.testing.assert_close(together.x0 / scale, torch.cat([p.x0 for p in apart]) / scale, rtol=0, atol=1e-5)


def test_a_batch_is_its_pictures_one_by_one(made):
    together = made.sample(PROMPTS, noise([0, 1, 2]), stochastic(made))
    for i in range(3):
        alone = made.sample(PROMPTS[i : i + 1], noise([i]), stochastic(made))
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-4)


def test_decoding_is_the_pipeline_s_own_with_a_gradient(made):
    trajectory = made.sample(PROMPTS, noise([0, 1, 2]))
    x0 = trajectory.x_TB[-1].requires_grad_()
    images = made.decode(PROMPTS, x0)
    torch.testing.assert_close(images.detach(), trajectory.images, rtol=0, atol=1e-6)
    images.sum().backward()
    assert all(x0.grad[i].abs().sum() > 0 for i in range(3))


@pytest.mark.parametrize("lora", [LoraConfig(rank=2, alpha=4), None], ids=["lora", "full"])
def test_only_the_denoiser_learns_and_all_of_it_gets_a_gradient(made, lora):
    pipe, config = family(made.config.path)
    generator = Generator(pipe, config)
    make_trainable(generator, lora, seed=0)
    with torch.no_grad():
        for parameter in generator.parameters.values():
            if lora is not None:
                parameter.add_(0.05)  # off the zero of B, at which A has no gradient yet
    x = generator.sample(PROMPTS, noise([0, 1, 2])).x_TB[1]
    generator.predict(PROMPTS, x, torch.full((3,), 0.5)).x0.square().sum().backward()
    without = [name for name, p in generator.parameters.items() if p.grad is None]
    # the last block of an MM-DiT drops its text stream, whose own layers may exist and stay unused
    assert len(without) <= 0.15 * len(generator.parameters), without
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module) and component is not generator.denoiser:
            assert not any(p.requires_grad or p.grad is not None for p in component.parameters()), name


@pytest.mark.parametrize("lora", [LoraConfig(rank=2, alpha=16), None], ids=["lora", "full"])
def test_what_is_saved_is_read_by_plain_diffusers(made, lora, tmp_path):
    """alpha ≠ rank: a file that loses the scale would draw other pictures."""
    pipe, config = family(made.config.path)
    generator = Generator(pipe, config)
    make_trainable(generator, lora, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(generator.parameters.values()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    tuned = generator.sample(PROMPTS, noise([0, 1, 2])).images
    save_trained(generator, lora, tmp_path)
    assert (tuned - made.sample(PROMPTS, noise([0, 1, 2])).images).abs().max() > 1e-2
    fresh_pipe, _ = family(made.config.path)
    if lora is not None:
        fresh_pipe.load_lora_weights(tmp_path)
        fresh = Generator(fresh_pipe, config)
    else:
        fresh = Generator(fresh_pipe, config)
        load_trained(fresh, tmp_path)
    torch.testing.assert_close(fresh.sample(PROMPTS, noise([0, 1, 2])).images, tuned, rtol=0, atol=1e-4)


def test_adapters_change_nothing_before_the_first_update(made):
    pipe, config = family(made.config.path)
    generator = Generator(pipe, config)
    make_trainable(generator, LoraConfig(rank=4, alpha=8), seed=3)
    before, after = (g.sample(PROMPTS, noise([0, 1, 2])).images for g in (made, generator))
    assert torch.equal(before, after)


def test_prompts_are_encoded_once_and_as_the_pipeline_would(made):
    pipe, config = family(made.config.path)
    generator = Generator(pipe, config)
    calls = []
    encode = pipe.encode_prompt.encode
    pipe.encode_prompt.encode = lambda **kwargs: calls.append(kwargs) or encode(**kwargs)
    for _ in range(2):
        generator.sample([PROMPTS[0], PROMPTS[0], PROMPTS[1]], noise([0, 1, 2]))
    assert len(calls) == 2


def test_unknown_call_settings_are_refused_with_the_nearest_name():
    pipe, config = family("SD3")
    values = plain(config) | {"call": {"max_sequence_lenght": 8}}
    with pytest.raises(BadInput, match="did you mean 'max_sequence_length'"):
        Generator(pipe, GeneratorConfig(**values))


def test_the_pipeline_gets_its_own_scheduler_back():
    pipe, config = family("FLUX.1")
    shipped, config_before = pipe.scheduler, copy.deepcopy(dict(pipe.config))
    generator = Generator(pipe, config)
    generator.sample(PROMPTS, noise([0, 1, 2]))
    generator.predict(PROMPTS, torch.randn(3, 16, 16), torch.full((3,), 0.5))
    assert pipe.scheduler is shipped
    assert dict(pipe.config) == config_before


@pytest.mark.parametrize("name", ["SD3", "FLUX.1", "SD1.5 v, DDIM"])
def test_half_precision_keeps_latents_in_float32_and_replays_exactly(name):
    pipe, config = family(name)
    generator = Generator(pipe.to(torch.bfloat16), dataclasses.replace(config, dtype="bfloat16"))
    make_trainable(generator, LoraConfig(rank=2, alpha=4), seed=0)
    assert {p.dtype for p in generator.parameters.values()} == {torch.float32}
    kernel = stochastic(generator)
    trajectory = generator.sample(PROMPTS, noise([0, 1, 2]), kernel)
    assert {x.dtype for x in trajectory.x_TB} == {torch.float32}
    t, t_next = (trajectory.times[i].expand(3) for i in (1, 2))
    prediction = generator.predict(PROMPTS, trajectory.x_TB[1], t)
    gaussian = kernel(generator.path, prediction, trajectory.x_TB[1], t, t_next)
    assert torch.equal(gaussian.mean, trajectory.gaussians[1].mean)
    prediction.x0.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in generator.parameters.values() if p.grad is not None)
