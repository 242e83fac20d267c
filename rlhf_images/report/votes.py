"""What people said of a run in blind comparisons: found beside it, so that votes reach the page by themselves."""

from pathlib import Path

from ..preferences import Pairs
from ..preferences.summary import summarise
from ..runs import read_record
from .content import Votes


def votes_on(run: Path, base: str | None) -> list[Votes]:
    """Return the comparisons of ``run`` with the generator ``base`` in which people voted, that of most votes last.

    They are folders of ``label --compare BASE RUN`` that lie in the run's folder or beside it. Votes of scripts do not
    count.
    """
    found = []
    for path in sorted({*run.glob("*/pairs.jsonl"), *run.resolve().parent.glob("*/pairs.jsonl")}):
        if not (path.parent / "run.json").is_file():
            continue
        record = read_record(path.parent)
        if record["stage"] != "compare" or base is None:
            continue
        before, after = (Path(record["config"][side]).resolve() for side in ("before", "after"))
        if after not in (run.resolve(), run.resolve().parent) or before != Path(base).resolve():
            continue
        summary = summarise(Pairs(path.parent), people_only=True)
        if summary.comparison is not None:
            rate = summary.comparison.win_rate
            people = sum(person.votes > 0 for person in summary.annotators)
            found.append(
                Votes(
                    "base", str(run), rate.value, rate.low, rate.high, rate.n, rate.clusters, people, str(path.parent)
                )
            )
    return sorted(found, key=lambda votes: votes.votes)
