"""Low-rank adapters (Hu et al. 2021), as the families that fine-tune large networks have them."""

from dataclasses import dataclass
from typing import final

from rlhf_images.config import Count


@final
@dataclass(frozen=True)
class Adapters:
    """W + (alpha/rank)·B·A, with B = 0 at the start."""

    rank: Count = 16
    """Inner dimension."""
    alpha: Count = 32
    """Scale; the usual choice is twice the rank."""
