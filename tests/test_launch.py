"""The launcher's configs: those that a CPU can run are run, the others are read as accelerate reads them."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from rlhf_images.errors import BadInput
from rlhf_images.generators.tiny import TinyConfig, build
from rlhf_images.processes import Processes

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
PROMPTS = ["a handwritten one", "a handwritten two", "a handwritten six"]
COUNTS = {"cpu": 2, "one_gpu": 1, "ddp": 8, "deepspeed_zero2": 8, "fsdp2": 8, "two_nodes": 16}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


@pytest.fixture
def config(tmp_path):
    build(TinyConfig(layers=1, heads=1, channels=(8, 16), text_tokens=6), 16, PROMPTS, 0).save_pretrained(
        tmp_path / "g"
    )
    values = {
        "generator": {"path": str(tmp_path / "g"), "steps": 2, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "reward": "rewards_for_tests:told_by_processes",
        "out": str(tmp_path / "run"),
        "steps": 1,
        "prompts_per_step": 3,
        "group_size": 4,
        "lora": {"rank": 2, "alpha": 4},
        "evaluation": {"prompts": PROMPTS, "seeds_per_prompt": 2},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values))
    return file


def launched(config, *options):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment["PROCESSES_TOLD"] = str(config.parent)
    return subprocess.Popen(
        [*LAUNCH, *options, "scripts/finetune.py", str(config)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(job):
    _, errors = job.communicate(timeout=600)
    assert job.returncode == 0, errors[-3000:]


def told(folder):
    """Which processes scored, of how many."""
    return sorted(path.name for path in folder.glob("process_*"))


def test_every_config_is_read_as_it_is_meant():
    """Accelerate ignores what it does not know, so each key is compared with what it made of it."""
    assert {path.stem for path in CONFIGS} == COUNTS.keys()
    for path in CONFIGS:
        read, written = load_config_from_file(str(path)), yaml.safe_load(path.read_text())
        assert read.num_processes == COUNTS[path.stem]
        assert written.keys() <= vars(read).keys()
        assert read.fsdp_config == written.get("fsdp_config", {})
        assert not read.use_cpu  # with which accelerate starts one process, however many are asked for
        command = launch_command_parser().parse_args(["--config_file", str(path), "scripts/finetune.py", "CONFIG"])
        assert (ROOT / command.training_script).is_file()


def test_two_processes_of_one_machine(config):
    ended(launched(config, "--config_file", "configs/accelerate/cpu.yaml"))
    assert told(config.parent) == ["process_0_of_2", "process_1_of_2"]
    assert (config.parent / "run" / "pytorch_lora_weights.safetensors").is_file()


def test_two_processes_that_share_the_weights(config):
    ended(launched(config, "--config_file", "configs/accelerate/fsdp2.yaml", "--num_processes", "2"))
    assert told(config.parent) == ["process_0_of_2", "process_1_of_2"]
    assert (config.parent / "run" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.campaign
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra: [deepspeed]")
def test_two_processes_with_a_share_of_the_moments_each(config):
    here = ["--config_file", "configs/accelerate/deepspeed_zero2.yaml", "--num_processes", "2"]
    ended(launched(config, *here))
    assert told(config.parent) == ["process_0_of_2", "process_1_of_2"]
    assert (config.parent / "run" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.campaign
def test_two_machines_that_meet_on_one(config):
    """Two launchers, each with a rank of its own, and a process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = ["--config_file", "configs/accelerate/two_nodes.yaml", "--num_processes", "2", "--main_process_port", port]
    jobs = [launched(config, *here, "--machine_rank", rank) for rank in ("0", "1")]
    for job in jobs:
        ended(job)
    assert told(config.parent) == ["process_0_of_2", "process_1_of_2"]
    assert (config.parent / "run" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            r"generator\.recompute_activations",
        ),
    ],
)
def test_what_is_not_done_is_refused_and_never_pretended(asked, words, monkeypatch):
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=words):
        Processes()
