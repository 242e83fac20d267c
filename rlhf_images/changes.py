"""What of a config may change when a run continues: each stage says it of every field, and a test misses none.

*Frozen*: what is learnt hangs on it, or what was saved does not fit another value; a change is refused with the
difference. *Tracked*: a person may well want to change it halfway; the change is kept in run.json, with the step after
which it came, and shown in the report. *Free*: no result depends on it beyond rounding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True)
class Fields:
    """The fields of a stage's config, by dotted names; a name of a section stands for everything in it."""

    frozen: str
    """Names, separated by white space."""
    tracked: str = ""
    """Names."""
    free: str = ""
    """Names."""

    def kind(self, key: str) -> Literal["frozen", "tracked", "free"] | None:
        """Return what ``key`` is, by the longest name here that is it or one of its sections; None where there is none.

        Below a field are the keys of its value, as in ``evaluation.judges.legible``.
        """
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in self.frozen.split():
                return "frozen"
            if name in self.tracked.split():
                return "tracked"
            if name in self.free.split():
                return "free"
        return None

    def refused(self, changed: Iterable[str]) -> list[str]:
        """Return the keys among ``changed`` that may not change. What nobody classified may not."""
        return [key for key in changed if self.kind(key) in ("frozen", None)]

    def kept(self, changed: Iterable[str]) -> list[str]:
        """Return the keys among ``changed`` that may change and are to be remembered."""
        return [key for key in changed if self.kind(key) == "tracked"]


FROZEN = Fields("", free="out")
"""Of a stage that says nothing: no field of it may change but where its folder lies, however that is written."""
