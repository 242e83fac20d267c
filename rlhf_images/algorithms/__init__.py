"""The algorithms, one file each. Adding one is a file and a line in this table."""

from typing import TypeAlias

from .base import Algorithm, Examples
from .nft import NFT

ALGORITHMS: dict[str, type[Algorithm]] = {"nft": NFT}

AnyAlgorithm: TypeAlias = NFT
"""The config's ``algorithm`` section: whichever member has this ``name``."""

__all__ = ["ALGORITHMS", "NFT", "Algorithm", "AnyAlgorithm", "Examples"]
