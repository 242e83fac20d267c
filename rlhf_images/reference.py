"""What a reward's unit is worth in this run: its scores on the base generator's pictures, kept in the run's folder.

A weighted sum of rewards needs it (`Reward.unmeasured`). It is measured once, before the first step, and read again
when the run continues or is evaluated, so that the sum means the same from the first step to the report.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .errors import BadInput
from .files import write_json
from .reward import Reward

SIZE = 1000
"""How many quantiles are kept at most."""


def measured(reward: Reward, scored: Callable[[Reward], Tensor]) -> dict[str, list[float]]:
    """Return the reference that each part of ``reward`` lacks, by name: its sorted scores of the same pictures.

    ``scored`` gives a reward's scores ``(N,)`` of them, NaN where it failed. Raises `BadInput` for a part that gives no
    two pictures different scores: it would say nothing, or divide by 0.
    """
    found = {}
    for name, part in reward.unmeasured().items():
        scores = scored(part)
        known = scores[torch.isfinite(scores)].float()
        if len(known) < 2 or float(known.max() - known.min()) <= 1e-6 * float(known.abs().max()):
            raise BadInput(
                f"reward '{name}': gives the base generator's {len(scores)} pictures {len(known.unique())} different"
                f" scores, {len(scores) - len(known)} failed; it cannot be normalised: leave it out"
            )
        found[name] = torch.quantile(known, torch.linspace(0, 1, min(len(known), SIZE))).tolist()
    return found


def adopt(reward: Reward, references: dict[str, list[float]]) -> None:
    """Give the parts of ``reward`` that were never measured the ``references`` of this run."""
    for name, part in reward.unmeasured().items():
        if name not in references:
            raise BadInput(f"reward '{name}': this run never measured it; start the run anew")
        part.reference = torch.tensor(references[name])


def keep(folder: Path, references: dict[str, list[float]]) -> None:
    """Write ``references`` into the run's ``folder``."""
    write_json(folder / "references.json", references)


def kept(folder: Path) -> dict[str, list[float]]:
    """Return what `keep` wrote, or nothing where nothing was measured."""
    path = folder / "references.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {str(name): [float(value) for value in values] for name, values in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); start the run anew") from None
