"""What a model likes, in pictures: its highest, middle and lowest scores, and where it was surest and wrong.

One HTML file. From held-out pairs where there are enough: what it learnt by heart tells nothing.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor
from torch.nn.functional import interpolate

from rlhf_images.data import encode
from rlhf_images.errors import BadInput
from rlhf_images.preferences import Pairs

from .card_text import signed
from .comparisons import Comparisons, Split

SHOWN = 8
"""Pictures of each kind, and mistakes."""
ENOUGH = 4 * SHOWN
"""Held-out pictures from which on only those are shown."""
SIDE = 192
"""Pixels of the longer side of a picture on the page, at most."""


@final
@dataclass(frozen=True)
class Shown:
    """A picture on the page."""

    data: Markup
    score: float
    prompt: str

    @property
    def told(self) -> str:
        """Return the score as it is shown."""
        return signed(self.score)


@final
@dataclass(frozen=True)
class Mistake:
    """A pair that the votes decided the other way than the model: ``preferred`` by them, and the one by it."""

    preferred: Shown
    other: Shown
    chance: float
    """What the model gave to its own choice."""
    share: float
    """Of the votes against it."""


def picture_page(
    title: str, verdict: str, alarms: Sequence[str], pairs: Pairs, data: Comparisons, split: Split, score: Tensor
) -> bytes:
    """Return the page as one HTML file that loads nothing. The same model and pairs give the same bytes."""
    among = data.shown(split.held_out) if split.held_out else torch.zeros(0, dtype=torch.long)
    held_out = len(among) >= ENOUGH
    among = among if held_out else torch.arange(len(score))
    order = among[score[among].argsort(descending=True, stable=True)].tolist()
    count = min(SHOWN, max(1, len(order) // 3))
    middle = (len(order) - count) // 2
    kinds = {"Highest": order[:count], "Middle": order[middle : middle + count], "Lowest": order[len(order) - count :]}
    environment = Environment(
        loader=PackageLoader("reward_models"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("pictures.html").render(
        title=title,
        verdict=verdict,
        alarms=alarms,
        held_out=held_out,
        usual=signed(float(score[data.shown(split.train)].mean())),
        kinds={name: [one for row in rows if (one := _shown(pairs, data, score, row))] for name, rows in kinds.items()},
        mistakes=_mistakes(pairs, data, split.held_out or list(range(len(data.target))), score),
        asked=len(split.held_out or data.target),
    )
    return html.encode("utf-8", "replace")


def _mistakes(pairs: Pairs, data: Comparisons, among: list[int], score: Tensor) -> list[Mistake]:
    """Return the wrongly told pairs ``among``, the surest first."""
    margin = score[data.left] - score[data.right]
    wrong = [pair for pair in among if float((data.target[pair] - 0.5) * margin[pair]) < 0]
    found: list[Mistake] = []
    for pair in sorted(wrong, key=lambda pair: (-abs(float(margin[pair])), pair)):
        left_won = float(data.target[pair]) > 0.5
        sides = (data.left[pair], data.right[pair]) if left_won else (data.right[pair], data.left[pair])
        preferred, other = (_shown(pairs, data, score, int(side)) for side in sides)
        if preferred and other:
            chance = float(torch.sigmoid(margin[pair].abs()))
            found.append(Mistake(preferred, other, chance, max(float(data.target[pair]), 1 - float(data.target[pair]))))
        if len(found) == SHOWN:
            break
    return found


def _shown(pairs: Pairs, data: Comparisons, score: Tensor, row: int) -> Shown | None:
    """Return a picture for the page, or None where it is no longer there."""
    try:
        image = pairs.image(data.ids[row])[None]
    except BadInput:
        return None
    longest = max(image.shape[-2:])
    if longest > SIDE:
        size = [max(1, round(side * SIDE / longest)) for side in image.shape[-2:]]
        image = interpolate(image, size=size, mode="bicubic", antialias=True)
    form: dict[str, Any] = {"form": "PNG"} if longest <= SIDE // 2 else {"form": "JPEG", "quality": 85}
    kind = str(form["form"]).lower()
    address = f"data:image/{kind};base64,{base64.b64encode(encode(image[0], **form)).decode()}"
    return Shown(Markup(address), float(score[row]), data.prompts[row])
