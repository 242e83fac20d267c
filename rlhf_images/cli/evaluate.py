"""``evaluate``: base against tuned."""

import argparse

from . import Stages


def add(stages: Stages) -> None:
    """Add the command."""
    evaluate = stages.add_parser(
        "evaluate", help="base against tuned: report and summary", description="Base against tuned."
    )
    evaluate.add_argument("folder", help="a finetune run, or the folder that holds it")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from reward_models import load

    from ..evaluate import evaluate

    evaluate(options.folder, load)
