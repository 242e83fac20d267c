"""``plan``: what a fine-tuning run will need, before a weight is there."""

import argparse

from .. import config as configs
from ..errors import BadInput
from . import Stages


def add(stages: Stages) -> None:
    """Add the command."""
    plan = stages.add_parser(
        "plan",
        help="FLOPs, memory and time of a finetune config, before a weight is there",
        description="Count what a finetune run will need, from the configs of its pipeline alone.",
    )
    plan.add_argument("config", help="a finetune config")
    plan.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    plan.add_argument("--card", help="the accelerator, such as h200; not given: this machine, measured")
    plan.add_argument("--gpus", type=int, default=1, metavar="N", help="how many of them (default: 1)")
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    import torch

    from reward_models import load

    from ..cards import CARDS, this_machine
    from ..finetune_config import FinetuneConfig
    from ..plan import changes, plan, table, text
    from ..progress import say

    if options.card is not None and options.card not in CARDS:
        raise BadInput(f"--card {options.card}: not in the table; known: {', '.join(CARDS)}")
    config = configs.load(FinetuneConfig, options.config, options.overrides)
    if not 1 <= options.gpus <= config.prompts_per_step * config.group_size:
        raise BadInput(
            f"--gpus {options.gpus}: from 1 to the {config.prompts_per_step * config.group_size} pictures of a step"
        )
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = plan(config, load, CARDS[options.card] if options.card else this_machine(here), options.gpus)
    say(text(table(made)))
    if not made.fits:
        say("to make it fit, one after the other:")
        for change in changes(made, load):
            say(f"  {change}")
