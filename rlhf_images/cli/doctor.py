"""``doctor``: tries on a few pictures what a fine-tuning run rests on."""

import argparse

from .. import config as configs
from ..errors import BadInput
from . import Stages


def add(stages: Stages) -> None:
    """Add the command."""
    doctor = stages.add_parser(
        "doctor",
        help="try in a minute what a finetune config rests on",
        description="Try what a finetune run rests on, a line a check; exit code 2 if one fails. Writes nothing.",
    )
    doctor.add_argument("config", help="a finetune config")
    doctor.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    from reward_models import load

    from ..doctor import doctor
    from ..finetune_config import FinetuneConfig
    from ..progress import say

    config = configs.load(FinetuneConfig, options.config, options.overrides)
    findings = doctor(config, load, lambda finding: say(finding.line))
    ill = [finding.name for finding in findings if not finding.well]
    if ill:
        raise BadInput(f"{options.config}: {len(ill)} of {len(findings)} checks failed: {', '.join(ill)}")
