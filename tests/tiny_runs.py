"""The smallest runs that still do everything: every algorithm, snapshots, an average, per-prompt statistics."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from rlhf_images.algorithms import ALGORITHMS
from rlhf_images.generators.tiny import TinyConfig, build

PROMPTS = ["a handwritten one", "a handwritten two"]
WAYS = {
    **{name: {} for name in ALGORITHMS},
    "awm": {"lag_rate": 0.2, "times_per_image": 2},
    "grpo": {"window": {"size": 1, "placed": "sliding", "every": 2}},
    "grpo_guard": {"kernel": "cps", "window": {"size": 1, "placed": "random"}},
    "dppo": {"kernel": "dance_sde"},
    "nft": {"times_per_image": 1, "kl_weight": 0.01, "decay_rate": 0.2},
}
"""Every algorithm, with settings that would tell if a step or a snapshot were forgotten."""


def tiny_generator(folder: Path) -> Path:
    """Write a tiny SD3 pipeline whose output layer is not zero."""
    pipe = build(TinyConfig(layers=1, heads=1, channels=(8,), text_tokens=6), 8, PROMPTS, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(pipe.transformer.parameters()):
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    pipe.save_pretrained(folder)
    return folder


def values(generator: Path, out: Path | str, name: str = "nft", **changes) -> dict:
    """Return a config of 4 steps of 4 pictures with algorithm ``name``."""
    return {
        "generator": {"path": str(generator), "steps": 2, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "reward": "rewards_for_tests:Signed",
        "out": str(out),
        "steps": 4,
        "prompts_per_step": 2,
        "group_size": 2,
        "micro_size": 2,
        "algorithm": {"name": name, **WAYS[name]},
        "advantage": "per_prompt" if name in ("ddpo", "rwr") else "global_std",
        "prompt_statistics": {"buffer": 4, "min_count": 2},
        "lora": {"rank": 2, "alpha": 4},
        "optimizer": {"lr": 3e-3},
        "average_decay": 0.5,
        "checkpoint_every": 1,
        "evaluation": {"prompts": PROMPTS[:1], "seeds_per_prompt": 2, "every": 2},
        **changes,
    }


def log(out: Path | str) -> list[dict]:
    """Return the rows of metrics.jsonl without their times."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("seconds", "images_per"))} for row in rows]


def tuned_tensors(out: Path | str) -> dict[str, torch.Tensor]:
    """Return the tuned weights of a finished run."""
    (file,) = [*Path(out).glob("*.safetensors"), *Path(out).glob("transformer/*.safetensors")]
    return load_file(file)


def tuned(out: Path | str) -> dict[str, bytes]:
    """Return the tuned weights of a finished run, bit by bit."""
    return {name: value.numpy().tobytes() for name, value in tuned_tensors(out).items()}


def end(out: Path | str) -> dict[str, object]:
    """Return all that a run is judged by: the log with the samples' signs, the tuned weights, the whole last state."""
    folder = Path(out)
    newest = max((folder / "checkpoints").iterdir())
    files = {f"{newest.name}/{path.name}": path.read_bytes() for path in newest.iterdir()}
    return {"log": log(out), "evaluations": (folder / "evaluations.jsonl").read_text(), **tuned(out), **files}
