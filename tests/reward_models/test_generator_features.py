"""A generator looks at pictures: its latents are the sampler's, and a head learns from what it sees."""

import json

import pytest
import torch
from conftest import head_config

from reward_models.extractors import FeaturesConfig, GeneratorExtractor, GeneratorFeatures
from reward_models.head import Head
from reward_models.train import train_reward
from rlhf_images.data import DIGIT_CAPTIONS, digits
from rlhf_images.errors import BadInput
from rlhf_images.generators import GeneratorConfig
from rlhf_images.generators.features import PictureFeatures

CALL = {"max_sequence_length": 6}


@pytest.fixture
def batch():
    images, labels = digits(16)
    return images[:6].clone(), [DIGIT_CAPTIONS[label] for label in labels[:6]]


def test_latents_decode_to_what_the_autoencoder_makes_of_the_picture(tiny_generator, batch):
    images, prompts = batch
    eyes = PictureFeatures(GeneratorConfig(tiny_generator, call=dict(CALL)), 0.3)
    assert eyes.size == 16
    latents = eyes.latents(images)
    vae = eyes.generator.pipe.vae
    plain = vae.decode(vae.encode(2 * images - 1).latent_dist.mode()).sample
    decoded = eyes.generator.decode(prompts, latents)
    torch.testing.assert_close(decoded, (plain / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-5)


def test_hidden_states_depend_on_prompt_and_picture_and_on_no_company(tiny_generator, batch):
    images, prompts = batch
    extractor = GeneratorExtractor(GeneratorFeatures(tiny_generator, call=CALL))
    found = extractor.blocks(images, prompts)
    assert list(found) == ["latents", "denoiser"]
    assert found["latents"].shape == (6, 4 * 17)
    assert found["denoiser"].shape == (6, 64)
    alone = [extractor.blocks(images[i : i + 1], prompts[i : i + 1])["denoiser"][0] for i in range(6)]
    torch.testing.assert_close(torch.stack(alone), found["denoiser"], rtol=1e-4, atol=1e-5)
    other = extractor.blocks(images, prompts[1:] + prompts[:1])
    assert torch.equal(other["latents"], found["latents"])
    assert (other["denoiser"] - found["denoiser"]).abs().amax(1).min() > 1e-6
    assert extractor.blocks(images, prompts)["denoiser"].equal(found["denoiser"])


def test_the_same_pipeline_with_another_time_is_another_extractor(tiny_generator):
    ids = {
        GeneratorExtractor(GeneratorFeatures(tiny_generator, call=CALL, time=time, parts=parts)).id
        for time, parts in ((0.3, ("latents",)), (0.3, ("latents", "denoiser")), (0.5, ("latents", "denoiser")))
    }
    assert len(ids) == 3


def test_a_head_learns_from_what_the_generator_sees(votes, tiny_generator, tmp_path, batch):
    images, prompts = batch
    features = FeaturesConfig(statistics=False, generator=GeneratorFeatures(tiny_generator, call=CALL))
    train_reward(head_config(votes, tmp_path / "out", features=features))
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["held_out_accuracy"] >= 0.7
    head = Head.load(tmp_path / "out")
    larger = torch.nn.functional.interpolate(images, size=40).requires_grad_(True)
    scores = head.score(images=larger, prompts=prompts)
    assert scores.valid.all()
    (gradient,) = torch.autograd.grad(scores.mean.sum(), larger)
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_latents_that_pictures_cannot_be_taken_into_are_refused(tiny_generator, monkeypatch):
    from diffusers import StableDiffusion3Pipeline

    monkeypatch.setattr(StableDiffusion3Pipeline, "_pack_latents", None, raising=False)
    with pytest.raises(BadInput, match="take the features of an open_clip model"):
        GeneratorExtractor(GeneratorFeatures(tiny_generator, call=CALL))


def test_nothing_to_look_at_is_refused():
    for parts in ((), ("latents", "latents")):
        with pytest.raises(ValueError, match="parts"):
            GeneratorFeatures("x", parts=parts)
