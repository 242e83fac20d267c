"""Prompts: where they come from, and which of them a step draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from .errors import BadInput
from .prompt_files import read_prompt_file
from .randomness import Randomness

MAX_CHARACTERS = 10_000


def read_prompts(source: str | tuple[str, ...]) -> list[str]:
    """Return the prompts of ``source``, each once: a tuple of them, ``"digits"``, or a file (`read_prompt_file`)."""
    if source == "digits":
        from .data import DIGIT_CAPTIONS

        return list(DIGIT_CAPTIONS)
    if isinstance(source, tuple):
        prompts, name = [prompt.strip() for prompt in source], "prompts"
    else:
        prompts, name = read_prompt_file(source), source
    prompts = list(dict.fromkeys(prompt for prompt in prompts if prompt))
    if not prompts:
        raise BadInput(f"{name}: no prompts in it; write one prompt a line")
    longest = max(prompts, key=len)
    if len(longest) > MAX_CHARACTERS:
        raise BadInput(
            f"{name}: a prompt of {len(longest)} characters ('{longest[:40]}…'); the limit is {MAX_CHARACTERS}"
        )
    return prompts


@final
@dataclass(frozen=True)
class PromptStream:
    """An endless stream of prompts, in a fresh order each pass. A function of (seed, step), so it needs no cursor."""

    prompts: Sequence[str]
    seed: int

    def take(self, step: int, count: int) -> list[str]:
        """Return the ``count`` prompts of ``step``; over any pass of the list every prompt comes equally often."""
        size = len(self.prompts)
        positions = range(step * count, (step + 1) * count)
        orders = {i // size: Randomness(self.seed, i // size).permutation("prompts", size) for i in positions}
        return [self.prompts[orders[i // size][i % size]] for i in positions]
