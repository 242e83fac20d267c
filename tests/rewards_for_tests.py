"""Exact rewards that tests name as ``rewards_for_tests:…``."""

import os
import signal
import zlib
from pathlib import Path

import torch

from rlhf_images.reward import Capabilities, Reward, Scores


def brightness(images, prompts):
    """A gold reward with no model in it."""
    return images.mean((1, 2, 3))


def constant(images, prompts):
    """Nothing to say."""
    return torch.ones(len(images))


def broken(images, prompts):
    """One score is not a number."""
    scores = brightness(images, prompts)
    scores[0] = torch.nan
    return scores


def hopeless(images, prompts):
    """No score is a number."""
    return torch.full((len(images),), torch.nan)


def terminated_in_third_call(images, prompts):
    """Brightness, but a SIGTERM arrives while the third batch is scored."""
    terminated_in_third_call.calls += 1
    if terminated_in_third_call.calls == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return brightness(images, prompts)


terminated_in_third_call.calls = 0


class Light(Reward):
    """Brightness with its gradient."""

    can = Capabilities(differentiable=True)

    def score(self, *, images, prompts):
        """Return the mean of all pixels."""
        return Scores.of(images.flatten(1).mean(1))


class LightWithAHole(Reward):
    """Brightness with its gradient, but for the second picture of a batch: no score, and no slope that is a number."""

    can = Capabilities(differentiable=True)

    def score(self, *, images, prompts):
        """Return the mean of all pixels, 0/0 for the second picture."""
        light = images.flatten(1).mean(1)
        hole = torch.ones(len(images))
        hole[1:2] = 0
        return Scores.of(light * hole / hole)


def darkness(images, prompts):
    """What brightness costs."""
    return -brightness(images, prompts)


class Signed(Reward):
    """Brightness with its gradient, and a sign of the picture's very bits, which a log then tells apart."""

    can = Capabilities(differentiable=True)

    def score(self, *, images, prompts):
        """Return the mean of all pixels; the sign is a checksum in [0, 1)."""
        signs = [zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes()) / 2**32 for image in images]
        return Scores.of(images.flatten(1).mean(1), components={"sign": torch.tensor(signs, device=images.device)})


def raises_on_the_second_process(images, prompts):
    """Brightness, where it can be had."""
    if os.environ.get("RANK") == "1":
        raise RuntimeError("only here")
    return brightness(images, prompts)


class LostOnTheSecondProcess(Reward):
    """Brightness with a part, as of a server that the second process of the training steps does not reach."""

    def score(self, *, images, prompts):
        """Return scores with the part ``light``, or failures that have no part."""
        light = images.flatten(1).mean(1)
        lost = os.environ.get("RANK") == "1"
        return Scores.of(light * torch.nan) if lost else Scores.of(light, components={"light": light})


def whole_levels(images, prompts):
    """Takes [0, 1] for 0 … 255: to it all but pure white is black."""
    return images.to(torch.uint8).float().mean((1, 2, 3))


def colour_blind(images, prompts):
    """Reads BGR: asked for red it looks at the last channel."""
    wanted = torch.tensor([2 if "red" in prompt else 0 for prompt in prompts])
    return images[torch.arange(len(images)), wanted].mean((1, 2)) - images.mean((1, 2, 3))


def moody(images, prompts):
    """Another answer each time."""
    moody.calls += 1
    return brightness(images, prompts) + 0.01 * moody.calls


moody.calls = 0


def gregarious(images, prompts):
    """A score that the neighbours have a say in."""
    return brightness(images, prompts) - images.mean()


def told_by_processes(images, prompts):
    """Brightness, and a file that says which process of how many asked."""
    name = f"process_{os.environ.get('RANK', 0)}_of_{os.environ.get('WORLD_SIZE', 1)}"
    Path(os.environ["PROCESSES_TOLD"], name).touch()
    return brightness(images, prompts)


class Placed(Reward):
    """Brightness, once it lies on the GPU if there is one, on the CPU else."""

    where: str | None = None

    def to(self, device):
        """Remember the device."""
        self.where = str(device)
        return self

    def score(self, *, images, prompts):
        """Return the mean of all pixels, or failures as long as it lies elsewhere."""
        right = self.where == ("cuda" if torch.cuda.is_available() else "cpu")
        return Scores.of(brightness(images, prompts) if right else torch.full((len(images),), torch.nan))


class Parted(Reward):
    """Redness, which it also calls by two names."""

    def score(self, *, images, prompts):
        """Return the mean of red."""
        red = images[:, 0].flatten(1).mean(1)
        return Scores.of(red, components={"red": red, "a longer name": 2 * red})
