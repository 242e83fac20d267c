"""The command line: one stage a command, and the one roof over both packages. A mistake ends in one line."""

import argparse
import difflib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from . import config as configs
from .errors import BadInput, Stop
from .progress import is_main

CONFIGURED = {
    "pretrain": "learn a small text-to-image generator from captioned pictures",
    "generate": "draw pictures of prompts with any diffusers pipeline, in pairs for labelling",
    "train-reward": "train a reward model on labelled pairs",
    "finetune": "tune the generator against a reward (or: accelerate launch scripts/finetune.py CONFIG)",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``rlhf-images STAGE …`` and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def stage(name: str) -> None:
    """Run ``scripts/<stage>.py …``, which is ``rlhf-images <stage> …``."""
    main([name, *sys.argv[1:]])


def run(arguments: Sequence[str]) -> int:
    """Run one stage and return its exit code: 0, or that of `errors.Stop`."""
    options = parser().parse_args(arguments)
    _prepare()
    try:
        options.run(options)
    except Stop as stop:
        _tell(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _tell(f"{error}; what was saved before is whole: make room, and the same command continues")
        return 1
    return 0


def _tell(text: str) -> None:
    if is_main():
        print("rlhf-images:", " ".join(text.split()), file=sys.stderr)  # noqa: T201


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="rlhf-images",
        description="Reinforcement learning from human feedback for image generators: the whole loop.",
        epilog="The loop: pretrain (or bring a pipeline) → generate → label → train-reward → finetune → evaluate.",
    )
    stages = top.add_subparsers(title="stages", metavar="STAGE", required=True)
    for name, summary in CONFIGURED.items():
        configured = stages.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        configured.add_argument("config", help=f"a YAML file, or one that is shipped: {', '.join(_shipped(name))}")
        configured.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
        configured.set_defaults(run=STAGES[name])
    _add_label(stages.add_parser("label", help="vote on pairs of pictures", description="Vote on pairs of pictures."))
    evaluate = stages.add_parser(
        "evaluate", help="base against tuned: report and summary", description="Base against tuned."
    )
    evaluate.add_argument("folder", help="a finetune run, or the folder that holds it")
    evaluate.set_defaults(run=_evaluate)
    _add_exchange(stages)
    return top


def _add_exchange(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
        from .preferences.formats import EXPORTERS, IMPORTERS

        taking = parser.get_default("run") is _import_pairs
        summaries = {name: layout.summary for name, layout in (IMPORTERS if taking else EXPORTERS).items()}
        for name, summary in summaries.items():
            print(f"{name:24}{summary}")  # noqa: T201
        parser.exit()


def _pretrain(options: argparse.Namespace) -> None:
    from .pretrain import PretrainConfig, pretrain

    pretrain(configs.load(PretrainConfig, options.config, options.overrides))


def _generate(options: argparse.Namespace) -> None:
    from .generate import GenerateConfig, generate

    generate(configs.load(GenerateConfig, options.config, options.overrides))


def _add_label(label: argparse.ArgumentParser) -> None:
    """Add the options of ``label`` in their groups: whose votes, on what, and the page's."""
    label.add_argument("folder", nargs="?", help="written by generate, or any folder of pictures by prompt")
    label.add_argument("--annotator", metavar="NAME", help="who votes; the page asks where several may")
    label.add_argument("--overlap", type=int, default=1, metavar="K", help="people that vote on each pair")
    label.add_argument("--gold", metavar="FILE", help='known answers, one {"pair": …, "choice": …} a line')
    label.add_argument(
        "--doubts-of", nargs="+", metavar="REWARD", help="ask first about what divides these reward models"
    )
    label.add_argument("--store", metavar="URL", help="where the votes are: postgresql://user@host/database for a team")
    label.add_argument("--stats", action="store_true", help="print the round in numbers, and end")
    page = label.add_argument_group("the page")
    page.add_argument("--host", default="127.0.0.1", help="another than this machine's own needs a token")
    page.add_argument("--port", type=int, help="0 is any free one")
    page.add_argument("--token", help="of the address, where others can reach it; made if not given")
    page.add_argument("--no-open", action="store_true", help="open no browser")
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
    from .label import doubtful_first, label_by_hand, label_scripted, read_gold, tell
    from .preferences.folder import pairs_of

    _refuse_idle(options, "compare", ("same_seed", "pairs", "prompts"))
    _refuse_idle(options, "scripted", ("noise", "seed"))
    pairs = pairs_of(_compared(options) if options.compare else options.folder or _no_folder(), options.store)
    if options.scripted:
        from reward_models import load

        label_scripted(pairs, options.scripted, load(options.scripted), options.noise or 0.0, options.seed or 0)
        return
    gold = read_gold(options.gold) if options.gold else {}
    if options.stats:
        tell(pairs, gold)
        return
    order = None
    if options.doubts_of:
        from reward_models import load

        order = doubtful_first(pairs, {name: load(name) for name in options.doubts_of})
    alone = options.host in ("127.0.0.1", "localhost", "::1")
    label_by_hand(
        pairs,
        annotator=options.annotator or ("me" if alone else None),
        overlap=options.overlap,
        gold=gold,
        order=order,
        host=options.host,
        port=options.port,
        token=options.token,
        open_browser=not options.no_open,
    )


def _compared(options: argparse.Namespace) -> str:
    from .compare import CompareConfig, beside, compare

    before, after = options.compare
    given = {"pairs": options.pairs, "prompts": options.prompts}
    plain = {"before": before, "after": after, "out": options.folder or beside(before, after)}
    plain |= {"same_seed": options.same_seed} | {name: value for name, value in given.items() if value is not None}
    return str(compare(configs.build(CompareConfig, plain, "label --compare")))


def _refuse_idle(options: argparse.Namespace, needed: str, idle: Sequence[str]) -> None:
    """Refuse an option that would do nothing without another."""
    for name in idle:
        if getattr(options, name) not in (None, False) and not getattr(options, needed):
            raise BadInput(f"--{name.replace('_', '-')}: only together with --{needed}")


def _no_folder() -> str:
    raise BadInput("label: which pairs? Give a folder, or two runs: --compare BEFORE AFTER")


def _train_reward(options: argparse.Namespace) -> None:
    from reward_models.train import TrainRewardConfig, train_reward

    train_reward(configs.load(TrainRewardConfig, options.config, options.overrides))


def _finetune(options: argparse.Namespace) -> None:
    from reward_models import load

    from .finetune import finetune
    from .finetune_config import FinetuneConfig

    finetune(configs.load(FinetuneConfig, options.config, options.overrides), load)


def _evaluate(options: argparse.Namespace) -> None:
    from reward_models import load

    from .evaluate import evaluate

    evaluate(options.folder, load)


def _import_pairs(options: argparse.Namespace) -> None:
    from .preferences.formats import IMPORTERS
    from .preferences.formats.importing import import_pairs

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
    from .preferences.formats import EXPORTERS
    from .preferences.formats.exporting import export_pairs
    from .preferences.formats.hub import push

    layout = EXPORTERS[_known(options.format, EXPORTERS, "export-pairs")]
    named = options.names == "show" or (options.names is None and not options.push_to_hub)
    export_pairs(options.format, layout, options.folder, options.out, store_url=options.store, named=named)
    if options.push_to_hub:
        push(Path(options.out), options.push_to_hub)


def _known(name: str, table: Iterable[str], command: str) -> str:
    """Return ``name`` if it is in ``table``, or tell the nearest one that is."""
    if name not in table:
        near = difflib.get_close_matches(name, list(table), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"'rlhf-images {command} --formats' lists them"
        raise BadInput(f"--format {name}: no such layout; {hint}")
    return name


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "pretrain": _pretrain,
    "generate": _generate,
    "train-reward": _train_reward,
    "finetune": _finetune,
}


def _shipped(stage: str) -> list[str]:
    name = {"train-reward": "reward.yaml"}.get(stage, f"{stage}.yaml")
    return [config for config in configs.shipped() if config.endswith(name)]


def _prepare() -> None:
    """Let threads wait without spinning, and keep the libraries' chatter out of a stage's story; errors stay."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads on a shared machine: 20 times slower, seen
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
