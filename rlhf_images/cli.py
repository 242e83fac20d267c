"""The command line: one stage a command, and the one roof over both packages. A mistake ends in one line."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from . import config as configs
from .errors import Stop
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
    return top


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

    from .finetune import finetune
    from .finetune_config import FinetuneConfig

    finetune(configs.load(FinetuneConfig, options.config, options.overrides), load)


def _evaluate(options: argparse.Namespace) -> None:
    from reward_models import load

    from .evaluate import evaluate

    evaluate(options.folder, load)


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
