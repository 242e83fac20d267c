"""Stage `choose`: from a pool of pairs those that are worth a person's time, as a folder of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from .config import Count
from .errors import BadInput
from .preferences import Pairs, Picture
from .progress import progress, say
from .randomness import Randomness
from .runs import Run


@final
@dataclass(frozen=True)
class ChooseConfig:
    """What is chosen from."""

    pool: str
    """A folder of pairs."""
    out: str
    """Folder of those that are chosen."""
    count: Count | None = None
    """How many; null is all."""
    doubts_of: tuple[str, ...] = ()
    """Reward models whose doubts come first; without any the order is random."""
    by: Literal["d_optimal", "disagreement"] | None = None
    """How their doubts are weighed (see `doubts`)."""

    def __post_init__(self) -> None:
        """Refuse what would do nothing."""
        if self.by is not None and not self.doubts_of:
            raise ValueError("--by weighs the doubts of reward models; name them with --doubts-of, or leave it out")


def choose(config: ChooseConfig, order: Sequence[str] | None) -> None:
    """Write the first pairs of the pool in ``order`` (ids; None: at random) to a new folder.

    Ids, prompts and pictures stay what they are.
    """
    run = Run("choose", config, config.out, inputs=(config.pool, *config.doubts_of))
    if run.finished:
        return say(f"{config.out}: already chosen")
    pool = Pairs(config.pool)
    if order is None:
        order = [pool.pairs[row].pair for row in Randomness(0).permutation("choose", len(pool.pairs))]
    chosen = set(order[: config.count])
    rows = [pair for pair in pool.pairs if pair.pair in chosen]
    if not rows:
        raise BadInput(f"{config.pool}: no pair can be chosen; draw others with 'rlhf-images generate'")
    run.save()
    wanted = dict.fromkeys(picture for pair in rows for picture in (pair.left, pair.right))

    def pictures() -> Iterator[tuple[bytes, Picture]]:
        for picture in progress(wanted, "choose", len(wanted)):
            pool.image(picture)  # refuses one that is corrupt
            yield (pool.folder / "images" / f"{picture}.png").read_bytes(), pool.pictures[picture]

    Pairs.create(Path(config.out), pictures(), rows)
    run.save(finished=True)
    return say(f"{len(rows)} of {len(pool.pairs)} pairs in {config.out}; next: rlhf-images label {config.out}")
