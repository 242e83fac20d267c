"""The differentiable preprocessing against PIL's."""

import numpy as np
import pytest
import torch
from PIL import Image

from reward_models.preprocess import Preprocessing
from reward_models.resize import straight_through_clamp


def picture(height: int, width: int) -> Image.Image:
    smooth = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(smooth, size=(height, width), mode="bilinear")[0]
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 16), (256, 256, 224), (16, 16, 32), (100, 60, 28)])
def test_equals_pil_to_one_step_of_a_byte(height, width, size):
    image = picture(height, width)
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    theirs = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    ours = Preprocessing(size).fitted(tensor)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - np.asarray(theirs)).max() < 1.5


def test_same_size_is_untouched():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Preprocessing(16).fitted(images), images)


def test_normalised_by_channel():
    pixels = Preprocessing(4, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)).normalised(torch.full((1, 3, 4, 4), 0.7))
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.2, 2.0, 0.4]))


def test_saturated_pixels_keep_their_gradient():
    pixels = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5], requires_grad=True)
    clamped = straight_through_clamp(pixels)
    torch.testing.assert_close(clamped.detach(), torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0]))
    clamped.sum().backward()
    assert torch.equal(pixels.grad, torch.ones(5))
