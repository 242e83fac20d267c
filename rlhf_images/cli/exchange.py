"""``import-pairs`` and ``export-pairs``: pairs come in from other tools, and go out to them."""

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path

from ..errors import BadInput
from . import Stages


def add(stages: Stages) -> None:
    """Add the two commands that take pairs in and give them out."""
    take = stages.add_parser(
        "import-pairs", help="take in pairs from other tools and public sets", description="Take pairs in."
    )
    take.add_argument("source", help="a file or folder in the layout")
    take.add_argument("folder", help="the folder of pairs: a new one, or one to add to")
    take.add_argument("--images", metavar="DIR", help="where the pictures are, if not beside the source")
    take.add_argument("--criterion", metavar="NAME", help="which answers, where a layout has several for a pair")
    take.set_defaults(run=_import_pairs)
    give = stages.add_parser("export-pairs", help="write judged pairs for other tools", description="Give pairs out.")
    give.add_argument("folder", help="the folder of pairs")
    give.add_argument("out", help="a folder that does not exist")
    give.add_argument("--names", choices=("show", "hide"), help="name the annotators (unless pushed) or number them")
    give.add_argument("--push-to-hub", metavar="REPO", help="send it to the hub as well, as a private data set")
    give.set_defaults(run=_export_pairs)
    for command in (take, give):
        command.add_argument("--format", required=True, metavar="F", help="the layout; --formats lists them")
        command.add_argument("--formats", action=_Layouts, nargs=0, help="list the layouts and exit")
        command.add_argument("--store", metavar="URL", help="the database of the votes, if not the folder's own")


class _Layouts(argparse.Action):
    """``--formats``: lists the layouts, which are not imported before somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print a line a layout, and exit."""
        from ..preferences.formats import EXPORTERS, IMPORTERS

        taking = parser.get_default("run") is _import_pairs
        summaries = {name: layout.summary for name, layout in (IMPORTERS if taking else EXPORTERS).items()}
        for name, summary in summaries.items():
            print(f"{name:24}{summary}")  # noqa: T201
        parser.exit()


def _import_pairs(options: argparse.Namespace) -> None:
    from ..preferences.formats import IMPORTERS
    from ..preferences.formats.importing import import_pairs

    layout = IMPORTERS[_known(options.format, IMPORTERS, "import-pairs")]
    import_pairs(
        options.format,
        layout,
        options.source,
        options.folder,
        images=options.images,
        criterion=options.criterion,
        store_url=options.store,
    )


def _export_pairs(options: argparse.Namespace) -> None:
    from ..hub import push
    from ..preferences.formats import EXPORTERS
    from ..preferences.formats.exporting import export_pairs

    layout = EXPORTERS[_known(options.format, EXPORTERS, "export-pairs")]
    named = options.names == "show" or (options.names is None and not options.push_to_hub)
    export_pairs(options.format, layout, options.folder, options.out, store_url=options.store, named=named)
    if options.push_to_hub:
        push(Path(options.out), options.push_to_hub, "dataset", "Preferences between pictures")


def _known(name: str, table: Iterable[str], command: str) -> str:
    """Return ``name`` if it is in ``table``, or tell the nearest one that is."""
    if name not in table:
        near = difflib.get_close_matches(name, list(table), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"'rlhf-images {command} --formats' lists them"
        raise BadInput(f"--format {name}: no such layout; {hint}")
    return name
