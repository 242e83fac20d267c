"""The algorithms, one file each. Adding one is a file, an import and a name in the union below."""

from typing import TypeAlias, get_args

from .awm import AWM
from .base import Algorithm, Examples, Objective, Scored
from .best_of_group import BestOfGroup
from .ddpo import DDPO
from .direct_align import DirectAlign
from .dppo import DPPO
from .draft import DRaFT
from .draft_lv import DRaFTLV
from .grpo import GRPO
from .grpo_guard import GRPOGuard
from .nft import NFT
from .online_dpo import OnlineDPO
from .ram import RAM
from .refl import ReFL
from .rwr import RWR

Forward: TypeAlias = NFT | AWM | RAM | RWR | BestOfGroup
Gradient: TypeAlias = GRPO | GRPOGuard | DPPO | DDPO
Direct: TypeAlias = DRaFT | DRaFTLV | ReFL | DirectAlign
AnyAlgorithm: TypeAlias = Forward | Gradient | Direct | OnlineDPO
"""The config's ``algorithm`` section: one of these, told apart by ``name``."""

ALGORITHMS: dict[str, type[Algorithm]] = {kind.name: kind for kind in get_args(AnyAlgorithm)}
"""The algorithms by name."""

__all__ = ["ALGORITHMS", "NFT", "Algorithm", "AnyAlgorithm", "Examples", "Objective", "Scored"]
