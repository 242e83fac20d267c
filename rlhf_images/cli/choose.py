"""``choose``: from a pool of pairs those that are worth a person's time."""

import argparse

from .. import config as configs
from . import Stages


def add(stages: Stages) -> None:
    """Add the command."""
    choose = stages.add_parser(
        "choose",
        help="take the pairs of a pool that are worth asking about",
        description="Take the pairs of a pool that are worth asking about, as a folder of their own.",
    )
    choose.add_argument("pool", help="a folder of pairs")
    choose.add_argument("out", help="a folder that does not exist")
    choose.add_argument("--count", type=int, metavar="N", help="so many of them (default: all)")
    choose.add_argument(
        "--doubts-of", nargs="+", metavar="REWARD", help="first what divides these reward models (default: at random)"
    )
    choose.add_argument("--by", choices=("d_optimal", "disagreement"), help="how their doubts are weighed, as in label")
    choose.set_defaults(run=_choose)


def _choose(options: argparse.Namespace) -> None:
    from ..choose import ChooseConfig, choose
    from ..doubts import doubtful_first
    from ..preferences import Pairs

    plain = {
        "pool": options.pool,
        "out": options.out,
        "count": options.count,
        "doubts_of": list(options.doubts_of or []),
        "by": options.by,
    }
    config = configs.build(ChooseConfig, plain, "choose")
    order = None
    if config.doubts_of:
        from reward_models import placed

        order = doubtful_first(Pairs(config.pool), {name: placed(name) for name in config.doubts_of}, config.by)
    choose(config, order)
