"""The stages that are told everything by a config: ``rlhf-images STAGE CONFIG key.sub=value …``."""

import argparse
from collections.abc import Callable

from .. import config as configs
from . import Stages


def add(stages: Stages) -> None:
    """Add a command for each of `RUNS`."""
    for name, (summary, run) in RUNS.items():
        configured = stages.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        configured.add_argument("config", help=f"a YAML file, or one that is shipped: {', '.join(_shipped(name))}")
        configured.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
        configured.set_defaults(run=run)
        if name == "finetune":
            configured.add_argument("--stop-on-alarm", action="store_true", help="the same as stop_on_alarm=true")


def _pretrain(options: argparse.Namespace) -> None:
    from ..pretrain import PretrainConfig, pretrain

    pretrain(configs.load(PretrainConfig, options.config, options.overrides))


def _generate(options: argparse.Namespace) -> None:
    from ..generate import GenerateConfig, generate

    generate(configs.load(GenerateConfig, options.config, options.overrides))


def _train_reward(options: argparse.Namespace) -> None:
    from reward_models.train import TrainRewardConfig, train_reward

    train_reward(configs.load(TrainRewardConfig, options.config, options.overrides))


def _finetune(options: argparse.Namespace) -> None:
    from reward_models import load

    from ..finetune import finetune
    from ..finetune_config import FinetuneConfig

    overrides = [*options.overrides, *(["stop_on_alarm=true"] if options.stop_on_alarm else [])]
    finetune(configs.load(FinetuneConfig, options.config, overrides), load)


def _dpo(options: argparse.Namespace) -> None:
    from reward_models import load

    from ..dpo import DPOConfig, dpo

    dpo(configs.load(DPOConfig, options.config, options.overrides), load)


def _shipped(stage: str) -> list[str]:
    name = {"train-reward": "reward.yaml"}.get(stage, f"{stage}.yaml")
    return [config for config in configs.shipped() if config.endswith(name)]


RUNS: dict[str, tuple[str, Callable[[argparse.Namespace], None]]] = {
    "pretrain": ("learn a small text-to-image generator from captioned pictures", _pretrain),
    "generate": ("draw pictures of prompts with any diffusers pipeline, in pairs for labelling", _generate),
    "train-reward": ("train a reward model on labelled pairs", _train_reward),
    "finetune": (
        "tune the generator against a reward (or: accelerate launch scripts/finetune.py CONFIG)",
        _finetune,
    ),
    "dpo": ("tune the generator on labelled pairs themselves, without a reward model (Diffusion-DPO)", _dpo),
}
"""Each with its summary."""
