"""The algorithms, one file each. Adding one is a file, an import and a name in the union below."""

from typing import TypeAlias, get_args

from .awm import AWM
from .base import Algorithm, Examples, Scored
from .best_of_group import BestOfGroup
from .ddpo import DDPO
from .dppo import DPPO
from .grpo import GRPO
from .grpo_guard import GRPOGuard
from .nft import NFT
from .online_dpo import OnlineDPO
from .ram import RAM
from .rwr import RWR

AnyAlgorithm: TypeAlias = NFT | AWM | RAM | GRPO | GRPOGuard | DPPO | DDPO | OnlineDPO | RWR | BestOfGroup
"""The config's ``algorithm`` section: one of these, told apart by ``name``."""

ALGORITHMS: dict[str, type[Algorithm]] = {kind.name: kind for kind in get_args(AnyAlgorithm)}
"""The algorithms by name."""

__all__ = ["ALGORITHMS", "NFT", "Algorithm", "AnyAlgorithm", "Examples", "Scored"]
