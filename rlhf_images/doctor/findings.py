"""What a check found."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: whether it is well, what was seen, and what to do if it is not."""

    name: str
    well: bool
    seen: str
    next_step: str = ""

    @classmethod
    def good(cls, name: str, seen: str) -> "Finding":
        """Return that all is well."""
        return cls(name, True, seen)

    @classmethod
    def bad(cls, name: str, seen: str, next_step: str) -> "Finding":
        """Return that something is not."""
        return cls(name, False, seen, next_step)

    @property
    def line(self) -> str:
        """Return it as one line."""
        words = f"{'pass' if self.well else 'FAIL'}  {self.name}: {self.seen}"
        return f"{words}; next: {self.next_step}" if self.next_step else words
