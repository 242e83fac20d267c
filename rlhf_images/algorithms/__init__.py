"""The algorithms, one file each. Adding one is a file, a line in the table and a member of the config's union."""

from typing import TypeAlias

from .base import Algorithm, Examples
from .nft import NFT

ALGORITHMS: dict[str, type[Algorithm]] = {"nft": NFT}

AnyAlgorithm: TypeAlias = NFT
"""The config's ``algorithm`` section; with a second algorithm, their union, told apart by ``name``."""

__all__ = ["ALGORITHMS", "NFT", "Algorithm", "AnyAlgorithm", "Examples"]
