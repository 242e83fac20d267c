"""Every algorithm from the same base, against the same learnt reward, for the same work.

    python benchmarks/algorithms.py [NAME …] [--seeds 2 3 4]   # appends a row a run to runs/benchmarks/algorithms.jsonl
    python benchmarks/algorithms.py --table                    # renders them as Markdown

It needs the demo's generator and reward (the first four commands of ``make demo``), and continues where it was stopped.

Each run is the library's own `finetune` on one thread: ten digits × 8 pictures a step, 10 sampling steps, LoRA of rank
16, AdamW, `UPDATES` updates a step, and as many steps as make `WORK` passes of the denoiser (one with gradient counts
as 2.5 of those without, as it costs). The reward is the demo's, learnt from 240 noisy votes and differentiable. What is
reported is judged by what nobody trained on: ``utility`` (the annotator's own taste, noiseless), ``legibility`` (a
reader fitted on other scans), ``diversity``, and ``drift``, the mean of ‖v − v_base‖² over the tuned generator's own
pictures under fresh noise, which is the KL to the base along the path up to a factor of time. Every evaluation uses the
same prompts and seeds, apart from training's. CPU seconds are of sampling, scoring and learning, not of evaluations.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from reward_models import load
from rlhf_images import finetune as loop
from rlhf_images.config import build
from rlhf_images.evaluator import Evaluator
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generators import Generator
from rlhf_images.math.objectives import squared_error
from rlhf_images.randomness import Randomness
from rlhf_images.track import read_rows

RESULTS = Path("runs/benchmarks/algorithms.jsonl")
WORK = 9000
"""Passes of the denoiser for one picture, in sampling and in learning, that a run may spend."""
UPDATES = 4
POINTS = 3
"""Evaluations a run, after the one of the base."""
SEEDS, FINAL = 4, 12
"""Pictures of each digit in these, and in the last one."""
GAIN = 0.04
"""The fixed utility: the base's and this much more."""

TUNED_ON = (0, 1)
"""Seeds by which the settings were chosen; they are not in the table."""

FAST = {"window": {"size": 3, "placed": "random", "within": 0.5}}
SETTINGS: dict[str, dict[str, Any]] = {
    "nft": {"lr": 3e-3, "times_per_image": 2, "beta": 0.3},
    "nft, beta 1": {"lr": 3e-3, "times_per_image": 2, "beta": 1.0},
    "awm": {"lr": 3e-3, "times_per_image": 2, "lag_weight": 0.2},
    "awm, lag_weight 1": {"lr": 3e-3, "times_per_image": 2, "lag_weight": 1.0},
    "ram": {"lr": 1e-3, "times_per_image": 2, "multiplier": 10.0},
    "rwr": {"lr": 3e-3, "times_per_image": 2, "temperature": 0.3},
    "best_of_group": {"lr": 3e-3, "times_per_image": 8},
    "online_dpo": {"lr": 1e-3, "times_per_image": 8, "beta": 20.0},
    "grpo": {"lr": 1e-3, **FAST, "clip": 0.02},
    "grpo_guard": {"lr": 1e-3, **FAST, "clip": 0.02},
    "dppo": {"lr": 1e-3, **FAST, "bound": 0.02},
    "ddpo": {"lr": 1e-3, **FAST, "clip": 0.02},
    "draft": {"lr": 3e-4},
    "draft_lv": {"lr": 3e-4},
    "refl": {"lr": 3e-4},
    "direct_align": {"lr": 3e-4},
}
"""The learning rate, and the algorithm's own settings where not its defaults, by its name and perhaps a remark."""
LEARNING: dict[str, float] = {
    "nft": 160 * (2.5 + 2),
    "awm": 160 * (2.5 + 3),
    "ram": 160 * (2.5 + 2),
    "rwr": 160 * 2.5,
    "best_of_group": 80 * 2.5,
    "online_dpo": 160 * (2.5 + 1),
    "grpo": 240 * (2.5 + 1),
    "grpo_guard": 240 * (2.5 + 1),
    "dppo": 240 * 2.5,
    "ddpo": 240 * 2.5,
    "draft": 80 * 4.0,
    "draft_lv": 240 * 4.0,
    "refl": 80 * 4.0,
    "direct_align": 160 * 4.0,
}
"""Passes that a step of these settings learns with; decoding and scoring with gradient add 1.5 to an example."""
SAMPLING = 800


def config_of(name: str, settings: dict[str, Any], seed: int, out: str) -> FinetuneConfig:
    """Return the run of one algorithm."""
    own = {key: value for key, value in settings.items() if key != "lr"}
    name = name.partition(",")[0]
    steps = round(WORK / (SAMPLING + LEARNING[name]))
    tree = {
        "generator": {"path": "runs/demo/generator", "steps": 10, "call": {"max_sequence_length": 6}},
        "prompts": "digits",
        "reward": "runs/demo/reward",
        "out": out,
        "seed": seed,
        "steps": steps,
        "prompts_per_step": 10,
        "group_size": 8,
        "updates_per_step": UPDATES,
        "micro_size": 80,
        "algorithm": {"name": name, **own},
        "lora": {"rank": 16, "alpha": 32},
        "optimizer": {"lr": settings["lr"]},
        "checkpoint_every": 1000,
        "evaluation": {
            "prompts": "digits",
            "seed": 1000,
            "seeds_per_prompt": SEEDS,
            "every": round(steps / POINTS),
            "judges": {"legibility": "legibility", "utility": "bold"},
            "deciding": "utility",
        },
    }
    return build(FinetuneConfig, tree, name)


def run(name: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Tune once, and return what is to be known of it."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(name, settings, seed, f"{folder}/run")
        spent, parts = tuned(config)
        generator = parts.policy.generator
        if not BASE:
            generator.pipe.disable_lora()
            BASE.update(parts.evaluator.evaluate(generator, FINAL).means())
            generator.pipe.enable_lora()
        final = parts.evaluator.evaluate(generator, FINAL).means()
        pictures = config.prompts_per_step * config.group_size
        return {
            "algorithm": name,
            "settings": settings,
            "seed": seed,
            "steps": config.steps,
            "curve": [
                {**row, "cpu_seconds": round(sum(spent[: row["step"]]), 3), "pictures": row["step"] * pictures}
                for row in parts.evaluations.rows()
            ],
            "reward": [row["reward"] for row in parts.metrics.rows()],
            "base": dict(BASE),
            "final": {**final, "drift": drift(parts.evaluator, generator)},
        }


BASE: dict[str, float] = {}


def tuned(config: FinetuneConfig) -> tuple[list[float], loop.Parts]:
    """Run `finetune`; return the CPU seconds of each of its steps, and what it worked with."""
    spent: list[float] = []
    worked: list[loop.Parts] = []
    learn: Callable[[loop.Parts, int], dict[str, float]] = loop.learn

    def timed(parts: loop.Parts, step: int) -> dict[str, float]:
        worked[:] = [parts]
        start = time.process_time()
        metrics = learn(parts, step)
        spent.append(time.process_time() - start)
        return metrics

    refresh = loop.refresh
    loop.learn, loop.refresh = timed, lambda _: None  # nobody reads these runs' reports
    try:
        loop.finetune(config, load)
    finally:
        loop.learn, loop.refresh = learn, refresh
    return spent, worked[0]


@torch.no_grad()
def drift(evaluator: Evaluator, generator: Generator, times: int = 4) -> float:
    """Return the mean squared distance in velocity between tuned and base at noised pictures of the tuned one."""
    rollout = evaluator.draw(generator, 2).rollout
    distances = []
    for number in range(times):
        randomness = Randomness(7, number)
        t = (number + randomness.uniform("drift time", rollout.index)) / times
        eps = randomness.normal("drift noise", rollout.index, rollout.x0.shape[1:])
        x = generator.path.add_noise(rollout.x0, eps, t)
        found = []
        for switch in (generator.pipe.enable_lora, generator.pipe.disable_lora):
            switch()
            found.append(generator.path.velocity(generator.predict(rollout.prompts, x, t), t))
        distances.append(squared_error(*found))
    generator.pipe.enable_lora()
    return float(torch.cat(distances).mean())


def reached(row: dict[str, Any], column: str) -> float | None:
    """Return at how many CPU seconds, or pictures, the utility first is the base's and `GAIN` more, or None."""
    target = row["curve"][0]["utility"] + GAIN
    for before, after in pairwise(row["curve"]):
        if after["utility"] >= target:
            share = (target - before["utility"]) / (after["utility"] - before["utility"])
            return float(before[column] + share * (after[column] - before[column]))
    return None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table in Markdown: medians over the seeds, and the range where it says something."""
    rows = [row for row in rows if row["seed"] not in TUNED_ON]
    lines = [
        f"| | seeds | CPU s to utility +{GAIN} | pictures to it | utility | learnt reward | legibility | diversity |"
        " drift |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = {key: statistics.median(row["base"][key] for row in rows) for key in rows[0]["base"]}
    lines.append(
        f"| base | | | | {base['utility']:.3f} | {base['reward']:.2f} | {base['legibility']:.3f} |"
        f" {base['diversity']:.3f} | 0 |"
    )
    for name in SETTINGS:
        mine = [row for row in rows if row["algorithm"] == name and row["settings"] == SETTINGS[name]]
        if not mine:
            continue
        final = {key: [row["final"][key] for row in mine] for key in mine[0]["final"]}
        shown = "`{}`{}{}".format(*name.partition(","))
        middle = {key: statistics.median(values) for key, values in final.items()}
        lines.append(
            f"| {shown} | {len(mine)} | {_reached(mine, 'cpu_seconds', '.1f')} | {_reached(mine, 'pictures', '.0f')} |"
            f" **{middle['utility']:.3f}** ({min(final['utility']):.3f} to {max(final['utility']):.3f}) |"
            f" {middle['reward']:.2f} | {middle['legibility']:.3f} | {middle['diversity']:.3f} |"
            f" {middle['drift']:.3f} |"
        )
    return "\n".join(lines)


def _reached(rows: Sequence[dict[str, Any]], column: str, form: str) -> str:
    values = [reached(row, column) for row in rows]
    known = [value for value in values if value is not None]
    if 2 * len(known) <= len(values):
        return f"not in {len(values) - len(known)} of {len(values)}"
    ordered = sorted(float("inf") if value is None else value for value in values)
    return format(ordered[len(ordered) // 2], form)


def main() -> None:
    """Run what is asked for and has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="algorithms; all if none is named")
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument(
        "--try", dest="tried", action="append", default=[], help="settings as JSON, over the usual ones"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so long")
    parser.add_argument("--table", action="store_true", help="render what was measured, and run nothing")
    options = parser.parse_args()
    if options.table:
        return print(table(read_rows(RESULTS)))
    torch.set_num_threads(1)
    start = time.monotonic()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.names or SETTINGS:
            for changes in [json.loads(text) for text in options.tried] or [{}]:
                settings = {**SETTINGS[name], **changes}
                known = [(row["algorithm"], row["settings"], row["seed"]) for row in read_rows(RESULTS)]
                if (name, settings, seed) not in known and time.monotonic() - start < 60 * options.minutes:
                    row = run(name, settings, seed)
                    with RESULTS.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(name, settings, seed, row["curve"][-1], row["base"], row["final"], flush=True)
    return None


if __name__ == "__main__":
    main()
