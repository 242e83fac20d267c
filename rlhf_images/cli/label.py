"""``label``: vote on pairs of pictures, by hand on the page or by script."""

import argparse
from collections.abc import Sequence

from .. import config as configs
from ..errors import BadInput
from . import Stages

PAGE = ("annotator", "overlap", "doubts_of", "host", "port", "token", "no_open")
"""What only the page, and the people on it, have a use for."""


def add(stages: Stages) -> None:
    """Add the options in their groups: whose votes, on what, and the page's."""
    label = stages.add_parser("label", help="vote on pairs of pictures", description="Vote on pairs of pictures.")
    label.add_argument("folder", nargs="?", help="written by generate, or any folder of pictures by prompt")
    label.add_argument("--annotator", metavar="NAME", help="who votes; the page asks where several may")
    label.add_argument("--overlap", type=int, metavar="K", help="people that vote on each pair (default: 1)")
    label.add_argument("--gold", metavar="FILE", help='known answers, one {"pair": …, "choice": …} a line')
    label.add_argument(
        "--doubts-of", nargs="+", metavar="REWARD", help="ask first about what divides these reward models"
    )
    label.add_argument(
        "--by",
        choices=("d_optimal", "disagreement"),
        help="how their doubts are weighed (default: d_optimal for one model of the family head)",
    )
    label.add_argument("--store", metavar="URL", help="where the votes are: postgresql://user@host/database for a team")
    label.add_argument("--stats", action="store_true", help="print the round in numbers, and end")
    page = label.add_argument_group("the page")
    page.add_argument("--host", help="another than this machine's own needs a token (default: 127.0.0.1)")
    page.add_argument("--port", type=int, help="0 is any free one")
    page.add_argument("--token", help="of the address, where others can reach it; made if not given")
    page.add_argument("--no-open", action="store_true", help="open no browser")
    label.add_argument("--alarm", metavar="RUN", help="what the newest alarms of a finetune run point to")
    compared = label.add_argument_group("a blind comparison")
    compared.add_argument(
        "--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="two pipelines, finetune runs or folders of generate"
    )
    compared.add_argument("--same-seed", action="store_true", help="both pictures of a pair from the same noise")
    compared.add_argument("--pairs", type=int, help="at most so many (default: 100)")
    compared.add_argument("--prompts", metavar="FILE", help="what is drawn (default: what the run was evaluated on)")
    script = label.add_argument_group("a scripted annotator")
    script.add_argument("--scripted", metavar="REWARD", help="let this reward vote: a name, folder or module:attribute")
    script.add_argument("--noise", type=float, help="probability of the opposite answer, 0 to 0.5 (default: 0)")
    script.add_argument("--seed", type=int, help="of the noise (default: 0)")
    label.set_defaults(run=_label)


def _label(options: argparse.Namespace) -> None:
    from ..doubts import doubtful_first
    from ..label import label_by_hand, label_scripted, read_gold, tell
    from ..preferences.folder import pairs_of

    _refuse_idle(options, "compare", ("same_seed", "pairs", "prompts"))
    _refuse_idle(options, "scripted", ("noise", "seed"))
    _refuse_idle(options, "doubts_of", ("by",))
    _refuse_beside(options, "scripted", ("stats", "gold", *PAGE))
    _refuse_beside(options, "stats", PAGE)
    _refuse_beside(options, "alarm", ("compare",))
    pairs = pairs_of(_folder(options), options.store)
    if options.scripted:
        from reward_models import placed

        label_scripted(pairs, options.scripted, placed(options.scripted), options.noise or 0.0, options.seed or 0)
        return
    gold = read_gold(options.gold) if options.gold else {}
    if options.stats:
        tell(pairs, gold)
        return
    order = None
    if options.doubts_of:
        from reward_models import placed

        order = doubtful_first(pairs, {name: placed(name) for name in options.doubts_of}, options.by)
    host = options.host or "127.0.0.1"
    alone = host in ("127.0.0.1", "localhost", "::1")
    label_by_hand(
        pairs,
        annotator=options.annotator or ("me" if alone else None),
        overlap=1 if options.overlap is None else options.overlap,
        gold=gold,
        order=order,
        host=host,
        port=options.port,
        token=options.token,
        open_browser=not options.no_open,
    )


def _folder(options: argparse.Namespace) -> str:
    """Return the folder of what is voted on, made first if it is a comparison or an alarm's."""
    if options.compare:
        return _compared(options)
    if options.alarm:
        from ..alarm_pairs import alarm_pairs

        if options.folder:
            raise BadInput("label: give a folder or --alarm RUN, not both")
        return str(alarm_pairs(options.alarm))
    return options.folder or _no_folder()


def _compared(options: argparse.Namespace) -> str:
    from ..compare import CompareConfig, beside, compare

    before, after = options.compare
    given = {"pairs": options.pairs, "prompts": options.prompts}
    plain = {"before": before, "after": after, "out": options.folder or beside(before, after)}
    plain |= {"same_seed": options.same_seed} | {name: value for name, value in given.items() if value is not None}
    return str(compare(configs.build(CompareConfig, plain, "label --compare")))


def _refuse_idle(options: argparse.Namespace, needed: str, idle: Sequence[str]) -> None:
    """Refuse an option that would do nothing without another."""
    for name in idle:
        if _given(options, name) and not _given(options, needed):
            raise BadInput(f"--{name.replace('_', '-')}: only together with --{needed.replace('_', '-')}")


def _refuse_beside(options: argparse.Namespace, other: str, idle: Sequence[str]) -> None:
    """Refuse an option that would do nothing beside another."""
    for name in idle:
        if _given(options, name) and _given(options, other):
            raise BadInput(f"--{name.replace('_', '-')}: does nothing beside --{other}; leave one of them out")


def _given(options: argparse.Namespace, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False


def _no_folder() -> str:
    raise BadInput("label: which pairs? Give a folder, or two runs: --compare BEFORE AFTER")
