"""The taste of the demo's scripted annotator: legible digits in bold strokes. Replace it by your own taste.

It is what the loop is to discover from votes alone; nothing that is trained ever sees it.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rlhf_images.reward import Reward, Scores

from .handwriting import asked, pixels, scans

FLAT = 0.05
"""Contrast (standard deviation of the pixels) below which a picture shows nothing; real digits have 0.37 ± 0.03."""
THIN, BOLD = 0.20, 0.50
"""Mean ink, in [0, 1], at which a stroke is as thin and as bold as it counts; real digits have 0.31 ± 0.04."""


@final
class Bold(Reward):
    """``legible · (1 + bold)``, in [0, 2]: boldness counts only as far as the digit can be read.

    ``legible`` is 1 where the reader gives the digit asked for an even chance or better, and falls to 0 with it; a flat
    picture shows nothing to read. ``bold`` grows with the mean ink from `THIN` to `BOLD` and no further. Another prompt
    than a digit's caption fails.
    """

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the utility ``(B,)`` of each picture to this annotator."""
        digit, grey = asked(prompts), pixels(images)
        chance = torch.from_numpy(_reader().predict_proba(np.nan_to_num(grey)))
        legible = (2 * chance.gather(1, digit.clamp(min=0)[:, None])[:, 0]).clamp(max=1)
        legible = legible.where(torch.from_numpy(grey.std(1)) > FLAT, torch.zeros_like(legible))
        ink = torch.from_numpy(grey.mean(1))
        bold = ((ink - THIN) / (BOLD - THIN)).clamp(0, 1)
        return Scores.of(torch.where(digit >= 0, legible * (1 + bold), torch.nan).to(images.device))


@cache
def _reader() -> Any:
    """Return a logistic regression on the pixels of the even-numbered scans."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped,unused-ignore]

    return LogisticRegression(max_iter=1000).fit(*scans(0))
