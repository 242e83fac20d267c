"""Labelled pairs as lessons: the latents of two pictures, and the share of the votes that chose the left one."""

import hashlib
import json
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import BadInput
from .generators import Generator
from .preferences import LabelledPair, Pairs
from .preferences.events import Whose
from .preferences.latents import kept
from .progress import say

MEMORY = 2**31
"""Bytes of latents that stay in memory."""
SAME = 1 / 255
"""Mean distance in a pixel below which a picture is what kept latents decode to: it was rounded to 8 bits."""


@final
class Lessons:
    """The pairs of a folder on which a decision was made, for one generator."""

    def __init__(self, pairs: Pairs, annotator: Whose) -> None:
        """Read the votes (of ``annotator``); leave out ties, which teach nothing, and pairs that cannot be read."""
        labelled = pairs.labelled(annotator)
        decided = [one for one in labelled if one.preference != 0.5]
        unread = pairs.unreadable(one.pair for one in decided)
        for pair, reason in unread.items():
            say(f"set aside: pair {pair} ({reason})")
        self.pairs = pairs
        self.by_id = {one.pair.pair: one for one in decided if one.pair.pair not in unread}
        if not self.by_id:
            raise BadInput(
                f"{pairs.folder}: {len(labelled)} labelled pairs, none of which can be learnt from (ties, or pictures"
                " that cannot be read); vote with 'rlhf-images label'"
            )
        say(f"{len(self.by_id)} pairs to learn from; {len(labelled) - len(decided)} ties are left out")
        self._latents: dict[str, Tensor] = {}
        self._shapes: tuple[torch.Size, torch.Size] | None = None

    @property
    def prompts(self) -> list[str]:
        """Return every prompt once."""
        return list(dict.fromkeys(one.pair.prompt for one in self.by_id.values()))

    @property
    def hash(self) -> str:
        """Return a hash of the pairs and of what was voted on them."""
        rows = [[one.pair.pair, one.pair.left, one.pair.right, one.preference] for one in self.by_id.values()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]

    def latents(self, generator: Generator, lessons: Sequence[LabelledPair], micro_size: int) -> tuple[Tensor, Tensor]:
        """Return the clean latents ``(N, …)`` of the left and of the right pictures."""
        wanted = {one.pair.left: one.pair.prompt for one in lessons}
        wanted |= {one.pair.right: one.pair.prompt for one in lessons}
        missing = [(name, prompt) for name, prompt in wanted.items() if name not in self._latents]
        found = {name: self._latents[name] for name in wanted if name in self._latents}
        for start in range(0, len(missing), micro_size):
            found |= self._made(generator, missing[start : start + micro_size])
        room = MEMORY - sum(one.numel() * one.element_size() for one in self._latents.values())
        for name, x0 in found.items():
            if name not in self._latents and room > 0:
                self._latents[name] = x0
                room -= x0.numel() * x0.element_size()

        def side(names: list[str]) -> Tensor:
            return torch.stack([found[name] for name in names]).to(generator.device)

        return side([one.pair.left for one in lessons]), side([one.pair.right for one in lessons])

    @torch.no_grad()
    def _made(self, generator: Generator, part: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        """Return the latents of pictures: those that were kept, if they decode to the picture, else its encoding."""
        self._shapes = self._shapes or generator.shapes(part[0][1])
        shape, (_, height, width) = self._shapes
        found: dict[str, Tensor] = {}
        foreign: dict[str, tuple[str, Tensor]] = {}
        for name, prompt in part:
            image, x0 = fitted(self.pairs.image(name), height, width), kept(self.pairs.folder, name)
            if x0 is not None and x0.shape == shape and _draws(generator, prompt, x0, image):
                found[name] = x0
            else:
                foreign[name] = prompt, image
        if foreign:
            prompts, images = zip(*foreign.values(), strict=True)
            encoded = generator.encode(prompts, torch.stack(images).to(generator.device))
            found |= dict(zip(foreign, encoded.cpu(), strict=True))
        return found


def fitted(image: Tensor, height: int, width: int) -> Tensor:
    """Return picture ``(3, …)`` in [0, 1] as ``(3, height, width)``: scaled to cover that, and its middle."""
    if image.shape[-2:] == (height, width):
        return image
    scale = max(height / image.shape[-2], width / image.shape[-1])
    covering = [max(round(image.shape[-2] * scale), height), max(round(image.shape[-1] * scale), width)]
    scaled = interpolate(image[None], size=covering, mode="bicubic", antialias=True, align_corners=False)[0]
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return scaled[:, top : top + height, left : left + width].clamp(0, 1)


def _draws(generator: Generator, prompt: str, x0: Tensor, image: Tensor) -> bool:
    """Return whether ``x0`` decodes to ``image``, and so is of this generator."""
    again = generator.decode([prompt], x0[None].to(generator.device))[0].cpu()
    return float((again - image).abs().mean()) < SAME
