"""Ctrl-C and SIGTERM as a wish that the loop reads at the end of a step, so that a step is done whole or not at all."""

import os
import signal
from types import FrameType, TracebackType
from typing import final

from .errors import Interrupted


@final
class Interruption:
    """Within its ``with``, the first signal only sets `signal`; a second one acts as it always did."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        """Begin to listen."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back."""
        self._restore()

    def stop(self, what: str) -> Interrupted:
        """Return the exception to raise once ``what`` is safe on disk."""
        number = self.signal or signal.SIGTERM
        return Interrupted(f"stopped by {signal.Signals(number).name}; {what}; the same command continues", number)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        os.write(2, b"\nstopping after this step; once more to stop at once\n")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
