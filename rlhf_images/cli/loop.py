"""``loop``: rounds of all the stages, each from what the one before taught."""

import argparse

from .. import config as configs
from . import Stages


def add(stages: Stages) -> None:
    """Add the command."""
    loop = stages.add_parser(
        "loop",
        help="rounds of generate, label, train-reward, finetune and evaluate",
        description="Rounds of all the stages, each from what the one before taught. The same command continues.",
    )
    shipped = ", ".join(name for name in configs.shipped() if name.endswith("loop.yaml"))
    loop.add_argument("config", help=f"a YAML file, or one that is shipped: {shipped}")
    loop.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    loop.set_defaults(run=_loop)


def _loop(options: argparse.Namespace) -> None:
    from ..loop import LoopConfig, loop

    loop(configs.load(LoopConfig, options.config, options.overrides))
