"""The independent judge: does a classifier that no other part was fitted with read the digit that was asked for?"""

from collections.abc import Sequence
from functools import cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rlhf_images.reward import Reward, Scores

from .handwriting import asked, pixels, scans


@final
class Legibility(Reward):
    """1 where a support vector machine fitted on the odd-numbered real scans reads the digit of the prompt, else 0."""

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return 1 or 0 for each picture ``(B,)``; another prompt than a digit's caption fails, and so does a NaN."""
        digit, grey = asked(prompts), pixels(images)
        read = torch.from_numpy(_judge().predict(np.nan_to_num(grey)))
        legible = torch.where(read == digit, 1.0, 0.0)
        judged = (digit >= 0) & torch.from_numpy(np.isfinite(grey).all(1))
        return Scores.of(torch.where(judged, legible, torch.nan).to(images.device))


@cache
def _judge() -> Any:
    from sklearn.svm import SVC  # type: ignore[import-untyped,unused-ignore]

    return SVC().fit(*scans(1))
