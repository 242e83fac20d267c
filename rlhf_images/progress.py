"""What a person sees while waiting: a bar with an ETA on a terminal, a plain line every tenth otherwise."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def say(text: str) -> None:
    """Print a line of the stage's story, from the main process only."""
    if is_main():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def is_main() -> bool:
    """Return whether this is the first process of the launch."""
    return int(os.environ.get("RANK", "0")) == 0


def progress(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    start: int = 0,
    note: dict[str, str] | None = None,
) -> Iterator[T]:
    """Yield from ``iterable``, showing how far it is and how long it will take; ``start`` items were done before.

    ``note`` is shown behind the bar and may be changed by the caller while iterating.
    """
    count = total if total is not None else (len(iterable) if isinstance(iterable, Sized) else None)
    if not is_main():
        yield from iterable
    elif sys.stderr.isatty():
        with tqdm(iterable, description, count, initial=start, dynamic_ncols=True, leave=True) as bar:
            for item in bar:
                yield item
                if note:
                    bar.set_postfix(note, refresh=False)
    else:
        yield from _plain(iterable, description, count, start, note)


def _plain(
    iterable: Iterable[T], description: str, total: int | None, start: int, note: dict[str, str] | None
) -> Iterator[T]:
    begun, told = time.monotonic(), start
    for done, item in enumerate(iterable, start + 1):
        yield item
        spent = time.monotonic() - begun
        if total and (done == total or done - told >= total / 10) and spent > 2:
            told, left = done, spent / (done - start) * (total - done)
            extra = " " + " ".join(f"{key}={value}" for key, value in note.items()) if note else ""
            sys.stderr.write(f"{description}: {done}/{total}, {spent:.0f} s, {left:.0f} s left{extra}\n")
            sys.stderr.flush()
