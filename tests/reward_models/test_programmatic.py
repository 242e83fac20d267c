"""Exact rewards against their closed forms."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

import reward_models
from reward_models.pixels import STATISTICS, high_frequency, luma, sharpness
from rlhf_images.errors import BadInput
from rlhf_images.statistics import diversity


def score(spec: str, images: torch.Tensor) -> torch.Tensor:
    scores = reward_models.load(spec).score(images=images, prompts=["x"] * len(images))
    return scores.mean


def flat(*colour: float, size: int = 8) -> torch.Tensor:
    return torch.tensor(colour)[None, :, None, None].expand(1, 3, size, size).clone()


def noise(count: int, height: int = 12, width: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_flat_pictures():
    grey, orange = flat(0.5, 0.5, 0.5), flat(1.0, 0.5, 0.0)
    assert score("brightness", grey).item() == pytest.approx(0.5)
    assert score("brightness", orange).item() == pytest.approx(0.2126 + 0.7152 / 2)
    assert score("saturation", grey).item() == 0
    assert score("saturation", orange).item() == 1
    for name in ("contrast", "sharpness", "high_frequency"):
        assert score(name, orange).item() == pytest.approx(0, abs=2e-6)


def test_stripes():
    """Black and white: contrast ½; a step between each two pixels, or only between columns."""
    stripes = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    checked = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(1, 3, 8, 8)
    assert score("contrast", stripes).item() == pytest.approx(0.5)
    assert score("sharpness", checked).item() == pytest.approx(1)
    assert score("sharpness", stripes).item() == pytest.approx(0.5)  # 56 differences of 1 and 56 of 0
    for picture in (stripes, checked):
        assert score("high_frequency", picture).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("periods", "fine"), [(2, False), (4, False), (5, True), (7, True)])
def test_high_frequency_is_what_is_finer_than_four_pixels_a_period(periods, fine):
    wave = 0.5 + 0.3 * torch.cos(2 * math.pi * periods * torch.arange(16) / 16)
    for picture in (wave.expand(1, 3, 16, 16), wave[:, None].expand(1, 3, 16, 16)):
        assert high_frequency(picture).item() == pytest.approx(0.3 / 2**0.5 if fine else 0, abs=2e-6)


def test_all_frequencies_but_the_mean_make_the_contrast():
    """Parseval: what is fine and what is coarse add up, in squares, to the variance."""
    images = noise(3, 16, 16).double().float()
    coarse = luma(images) - torch.fft.ifft2(_fine(luma(images))).real
    whole = high_frequency(images).square() + coarse.var((1, 2), correction=0)
    torch.testing.assert_close(whole, luma(images).var((1, 2), correction=0), rtol=1e-4, atol=1e-6)


def _fine(y: torch.Tensor) -> torch.Tensor:
    u, v = torch.fft.fftfreq(16).abs()[:, None], torch.fft.fftfreq(16).abs()[None]
    return torch.fft.fft2(y) * ((u > 0.25) | (v > 0.25))


def test_one_pixel_has_no_neighbour_and_no_sharpness():
    assert sharpness(torch.ones(1, 3, 1, 1)).isnan().all()
    assert sharpness(torch.tensor([0.0, 1.0, 0.0]).expand(1, 3, 1, 3)).item() == 1


@pytest.mark.parametrize("name", list(STATISTICS))
def test_statistics_do_not_change_when_a_picture_is_mirrored(name):
    images = noise(2)
    torch.testing.assert_close(score(name, images.flip(-1)), score(name, images))


@pytest.mark.parametrize("quality", [95, 40])
def test_jpeg_size_is_that_of_the_file(quality):
    images = noise(2, 24, 40)
    sizes = []
    for image in images:
        file = io.BytesIO()
        array = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(file, "JPEG", quality=quality)
        sizes.append(file.tell() / 1000)
    torch.testing.assert_close(score(f"jpeg_incompressibility@{quality}", images), torch.tensor(sizes))
    torch.testing.assert_close(score(f"jpeg_compressibility@{quality}", images), -torch.tensor(sizes))
    assert score("jpeg_compressibility", flat(0.3, 0.3, 0.3)) > score("jpeg_compressibility", noise(1, 8, 8))


def test_palette_counts_the_nearest_colour():
    picture = flat(1.0, 0.0, 0.0)
    picture[..., 4:] = torch.tensor([0.0, 0.0, 0.5])[:, None, None]
    assert score("palette@#ff0000,#000080", picture).item() == pytest.approx(0, abs=1e-4)
    assert score("palette@ff0000, #0000ff", picture).item() == pytest.approx(-0.25 / 2)
    assert score("palette@#000000", picture).item() == pytest.approx(-(1 + 0.25) / 2)


def test_symmetry_is_of_its_axis():
    picture = torch.zeros(1, 3, 4, 4)
    picture[..., 0] = 1  # a white edge on the left
    assert score("symmetry", picture).item() == pytest.approx(-0.5)
    assert score("symmetry@top-bottom", picture).item() == 0
    assert score("symmetry", torch.cat([picture, picture.flip(-1)], 3)).item() == 0


@pytest.mark.parametrize(("height", "width"), [(12, 10), (40, 33), (64, 64)])
def test_diversity_is_that_of_the_report(height, width):
    images = noise(5, height, width)
    images[1] = 0.8 * images[0] + 0.1
    images[2] = 0.4
    images[3] = 0.7
    scores = score("diversity", images)
    assert scores.mean().item() == pytest.approx(diversity(images, ["x"] * 5), abs=1e-5)
    assert scores[4] > scores[0]  # the first has a near copy


def test_diversity_of_one_is_unknown():
    assert not reward_models.load("diversity").score(images=noise(1), prompts=["x"]).valid.any()
    two = noise(2)
    two[0, 0, 0, 0] = np.nan
    assert not reward_models.load("diversity").score(images=two, prompts=["x"] * 2).valid.any()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("palette@red", "colours as #rrggbb"),
        ("palette@#ff0000,", "colours as #rrggbb"),
        ("symmetry@sideways", "left-right or top-bottom"),
        ("jpeg_compressibility@0", "from 1 to 100"),
        ("jpeg_compressibility@high", "from 1 to 100"),
        ("brightness@0.5", "takes nothing behind '@'"),
    ],
)
def test_wrong_settings_are_refused(spec, says):
    with pytest.raises(BadInput, match=says):
        reward_models.load(spec)


def test_settings_are_in_the_id():
    specs = ["palette@#ff0000", "palette@#00ff00", "symmetry", "symmetry@top-bottom", "jpeg_compressibility"]
    specs += ["jpeg_compressibility@50", "jpeg_incompressibility", "brightness", "contrast"]
    assert len({reward_models.load(spec).id for spec in specs}) == len(specs)
