"""``report``: the page of a run, from what lies in its folder."""

import argparse

from ..errors import BadInput
from . import Stages


def add(stages: Stages) -> None:
    """Add the command."""
    report = stages.add_parser(
        "report",
        help="write the page of a run anew, also while it is trained",
        description="Write the page of a run anew from what lies in its folder, also while it is trained.",
    )
    report.add_argument("folder", help="a finetune run or a comparison, or the folder that holds it")
    report.add_argument("--open", action="store_true", help="show it in the browser")
    report.add_argument("--push-to-hub", metavar="REPO", help="send weights, model card and page to the hub, private")
    report.add_argument("--public", action="store_true", help="for everybody to see, if it is new on the hub")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    import webbrowser
    from pathlib import Path

    from ..progress import say
    from ..report import report

    if options.public and not options.push_to_hub:
        raise BadInput("--public: only together with --push-to-hub")
    path = report(Path(options.folder))
    say(f"report: {path}")
    if options.open:
        webbrowser.open(path.resolve().as_uri())
    if options.push_to_hub:
        from ..model_card import push_model

        push_model(Path(options.folder), options.push_to_hub, public=options.public)
