"""Every config that people copy runs: one step through the real command, with a tiny pipeline of the same family."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from families import FAMILIES, PROMPTS, family
from safetensors import safe_open

from rlhf_images.cli import run
from rlhf_images.config import find, shipped

FAMILY = {
    "digits": "SD3",
    "sprites": "SD3",
    "programmatic": "SD3",
    "scorers": "SD3",
    "remote": "SD3",
    "head": "SD3",
    "clip": "SD3",
    "sd15": "SD1.5 guided",
    "sdxl": "SDXL guided",
    "sd35_medium": "SD3",
    "flux1_dev": "FLUX.1",
    "flux2_klein": "FLUX.2-klein",
    "qwen_image": "Qwen-Image guided",
    "z_image": "Z-Image",
    "sana": "Sana",
}
"""Folder of configs → the row of the table of families that stands in for its checkpoint."""

TUNING = [name for name in shipped() if Path(name).stem in ("finetune", "dpo")]
ASKED = ["sd15", "sdxl", "sd35_medium", "flux1_dev", "flux2_klein", "qwen_image", "z_image", "sana"]

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in (".* is deprecated", "Initializing zero-element")
]


def test_the_families_that_people_ask_for_have_a_commented_config():
    for name in ASKED:
        assert f"{name}/finetune.yaml" in TUNING
        text = find(f"{name}/finetune.yaml").read_text(encoding="utf-8")
        assert "# Card: " in text
        assert "ublished" in text


def small(name, folder):
    """What has to be smaller for a tiny pipeline, as overrides of the config; all else is the config's own."""
    row = FAMILIES[FAMILY[name.split("/")[0]]]
    shown = yaml.safe_load(find(name).read_text(encoding="utf-8"))
    changes = {
        "generator.path": str(folder / "pipe"),
        "generator.height": row.side,
        "generator.width": row.side,
        "generator.steps": max(row.steps, 4),
        "generator.call": row.call,
        "out": str(folder / "run"),
        "reward": "brightness",
        "steps": 1,
        "evaluation.prompts": PROMPTS[:2],
        "evaluation.seeds_per_prompt": 2,
        "evaluation.judges": {},
        "evaluation.deciding": "reward",
    }
    if "prompt_cache" in shown["generator"]:
        changes["generator.prompt_cache"] = str(folder / "prompts")
    if shown.get("lora") or "lora" not in shown:
        changes["lora.rank"] = 2
    if name.endswith("dpo.yaml"):
        return changes | {"pairs": str(folder / "pairs"), "pairs_per_step": 2, "times_per_pair": 1}
    groups = {"group_size": 1, "prompts_per_step": 4} if shown.get("group_size") == 1 else {}
    return changes | {"prompts": PROMPTS, "prompts_per_step": 2, "group_size": 4} | groups


@pytest.mark.parametrize("name", TUNING)
def test_one_step_of_every_tuning_config(name, tmp_path, capsys):
    with torch.random.fork_rng(devices=[]):
        pipe, _ = family(FAMILY[name.split("/")[0]])
    pipe.save_pretrained(tmp_path / "pipe", safe_serialization=True)
    changes = small(name, tmp_path)
    if name.endswith("dpo.yaml"):
        from test_pairs import made, vote

        pairs = made(tmp_path / "pairs", 4, PROMPTS[0])
        vote(pairs, "me", [(pair.pair, "left") for pair in pairs.pairs])
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    assert run([Path(name).stem, name, *overrides]) == 0, capsys.readouterr().err
    folder = tmp_path / "run"
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] is not None
    assert row["grad_norm"] > 0
    weights = list(folder.glob("*.safetensors")) or list(folder.glob("unet/*.safetensors"))
    with safe_open(weights[0], "pt") as file:
        assert len(list(file.keys()))
    assert (folder / "samples" / "step_000000.png").is_file()
