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
    label = stages.add_parser("label", help="vote on a folder of pairs", description="Vote on a folder of pairs.")
    label.add_argument("folder", help="written by generate")
    label.add_argument(
        "--scripted", metavar="REWARD", required=True, help="let this reward vote: a name, folder or module:attribute"
    )
    label.add_argument("--noise", type=float, default=0.0, help="probability of the opposite answer, 0 to 0.5")
    label.add_argument("--seed", type=int, default=0, help="of the noise")
    label.set_defaults(run=_label)
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


def _label(options: argparse.Namespace) -> None:
    from reward_models import load

    from .label import label_scripted

    label_scripted(options.folder, options.scripted, load(options.scripted), options.noise, options.seed)


def _train_reward(options: argparse.Namespace) -> None:
    from reward_models.train import TrainRewardConfig, train_reward

    train_reward(configs.load(TrainRewardConfig, options.config, options.overrides))


def _finetune(options: argparse.Namespace) -> None:
    from reward_models import load

    from .finetune import FinetuneConfig, finetune

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
