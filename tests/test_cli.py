"""The command line: a mistake ends in exit code 2 and one line that names it, and nothing on disk is touched."""

import argparse
import ast
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from rlhf_images.cli import parser, run
from rlhf_images.data import DIGIT_CAPTIONS, digits, encode
from rlhf_images.generators.tiny import TinyConfig, build
from rlhf_images.preferences import Pairs, Picture, PreferencePair
from rlhf_images.preferences.pairs import picture_id

SOURCE = Path(__file__).parents[1]
SHIPPED = {
    "pretrain": "pretrain",
    "generate": "generate",
    "train-reward": "reward",
    "finetune": "finetune",
    "dpo": "dpo",
}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(capfd, tmp_path, monkeypatch):
    """Return a function that runs a command which must be refused, and returns the one line that it says."""
    monkeypatch.chdir(tmp_path)

    def refusal(*arguments) -> str:
        before = contents(tmp_path)
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        line = capfd.readouterr().err
        assert code == 2, line
        assert line.count("\n") == 1, line
        assert line.startswith("rlhf-images: ")
        assert contents(tmp_path) == before
        return line

    return refusal


@pytest.fixture
def pairs(tmp_path) -> Path:
    data = [encode(image) for image in digits(16)[0][:4]]
    pictures = [Picture(picture_id(content), DIGIT_CAPTIONS[0], 0, i, {}) for i, content in enumerate(data)]
    two = [PreferencePair(str(i), DIGIT_CAPTIONS[0], pictures[2 * i].id, pictures[2 * i + 1].id) for i in range(2)]
    return Pairs.create(tmp_path / "pairs", zip(data, pictures, strict=True), two).folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    sizes = TinyConfig(layers=1, heads=1, channels=(8, 8), text_width=16, text_tokens=4)
    build(sizes, 8, ["a cat"], 0).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("stage", SHIPPED)
def test_a_misspelt_key_is_named_with_its_file_and_the_nearest_right_one(refused, stage):
    config = f"digits/{SHIPPED[stage]}.yaml"
    assert f"{config}: unknown key 'sead'; did you mean 'seed'?" in refused(stage, config, "sead=1")


@pytest.mark.parametrize("stage", SHIPPED)
def test_a_config_of_another_stage_is_refused(refused, stage):
    other = "generate" if stage == "pretrain" else "pretrain"
    assert "unknown key" in refused(stage, f"digits/{other}.yaml")


def test_a_config_that_is_not_there_lists_those_that_are(refused):
    assert "digits/pretrain.yaml" in refused("pretrain", "gone.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: digits\nout: a\nsize: big\n", "mine.yaml: size: Input should be a valid integer, got 'big'"),
        ("data: digits\nout: a\nout: b\n", "mine.yaml: key 'out' is given twice (line 3)"),
        ('data: digits\nout: a\n"two\\nlines": 1\n', "unknown key 'two lines'"),
        ("data: digits\n", "mine.yaml: out: Field required"),
        ("data: digits\nout: a\nsize: 18\n", "size 18 is not a multiple of 4"),
        ("data: digits\nout: a\ntransformer: {stps: 3}\n", "unknown key 'transformer.stps'; did you mean 'steps'?"),
    ],
)
def test_a_mistake_in_a_file_of_mine_is_one_line(refused, tmp_path, text, expected):
    (tmp_path / "mine.yaml").write_text(text)
    assert expected in refused("pretrain", "mine.yaml")


@pytest.mark.parametrize("source", ["./gone", "empty", "no_metadata", "all_bad"])
def test_a_data_set_without_pictures_is_refused(refused, tmp_path, tmp_path_factory, monkeypatch, source):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("empty", "no_metadata", "all_bad"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "no_metadata/a.png")
    (tmp_path / "all_bad/a.png").write_bytes(b"no picture")
    (tmp_path / "all_bad/metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    assert source in refused("pretrain", "digits/pretrain.yaml", f"data={source}", "out=new")


@pytest.mark.parametrize(("name", "expected"), [("empty.txt", "no prompts in it"), ("gone.txt", "no such prompt file")])
@pytest.mark.parametrize("stage", ["generate", "finetune"])
def test_a_prompt_file_without_prompts_is_refused(refused, tmp_path, stage, name, expected):
    (tmp_path / "empty.txt").write_text("\n \n")
    line = refused(stage, f"digits/{stage}.yaml", f"prompts={name}", "out=new")
    assert f"{name}: {expected}" in line


@pytest.mark.parametrize("stage", SHIPPED)
def test_a_folder_that_is_not_this_run_is_refused(refused, tmp_path, stage, pairs):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/novel.txt").write_text("precious")
    record = {
        "stage": stage.replace("-", "_"),
        "config": {"out": "other", "seed": 99},
        "seconds": 1.0,
        "finished": True,
    }
    for name, change in (("other", {}), ("stage", {"stage": "another"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record | change))
    (tmp_path / "file").write_text("precious")
    for name, expected in {
        "foreign": "foreign: is not empty and holds no run of ours",
        "other": "other: already holds another run (",
        "stage": "stage: already holds a 'another' run",
        "file": "file: is a file",
    }.items():
        source = [f"pairs={pairs}"] if stage == "train-reward" else []
        assert expected in refused(stage, f"digits/{SHIPPED[stage]}.yaml", f"out={name}", *source)


def test_a_reward_that_is_not_there_is_named_with_the_nearest(refused, pairs):
    assert "did you mean 'bold'?" in refused("label", pairs, "--scripted", "bodl")


def test_labelling_needs_pairs_and_an_honest_noise(refused, tmp_path, pairs):
    assert "no pairs in it" in refused("label", tmp_path / "gone", "--scripted", "bold")
    assert "--noise 0.7" in refused("label", pairs, "--scripted", "bold", "--noise", "0.7")


def test_evaluating_needs_a_run_that_has_finished(refused, tmp_path):
    assert "no finetune run in it" in refused("evaluate", tmp_path)
    record = {"stage": "finetune", "config": {}, "seconds": 1.0, "finished": False}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    assert "has not finished" in refused("evaluate", tmp_path)
    (tmp_path / "run/run.json").write_text(json.dumps(record)[:-9])
    assert "no readable run record" in refused("evaluate", tmp_path / "run")


def damaged(folder: Path, damage: str) -> None:
    """Spoil a saved pipeline."""
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    if damage == "emptied":
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif damage == "pickled":
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "component gone":
        shutil.rmtree(folder / "vae")
    else:
        for path in folder.glob(damage):
            path.write_bytes(b"{" + b"x" * 100)


SPOILT = ["model_index.json", "transformer/config.json", "transformer/*.safetensors", "tokenizer/*.json"]


@pytest.mark.parametrize("damage", ["emptied", "pickled", "cut", "component gone", *SPOILT])
def test_a_corrupt_generator_is_refused(refused, tmp_path, generator, damage):
    shutil.copytree(generator, tmp_path / "broken")
    damaged(tmp_path / "broken", damage)
    line = refused(
        "generate", "digits/generate.yaml", "generator.path=./broken", "generator.call={}", "prompts=[a cat]", "out=new"
    )
    assert "broken: cannot be loaded as a diffusers pipeline" in line


def test_a_call_setting_that_the_pipeline_has_not_is_refused(refused, generator):
    line = refused(
        "generate", "digits/generate.yaml", f"generator.path={generator}", "generator.call={max_lenght: 4}", "out=new"
    )
    assert "no setting 'max_lenght'" in line


def test_a_full_disk_is_one_line_and_its_own_code(pairs, monkeypatch, capfd):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert run(["label", str(pairs), "--scripted", "bold"]) == 5
    assert capfd.readouterr().err.splitlines()[-1].startswith("rlhf-images: [Errno 28] No space left on device")
    monkeypatch.undo()
    assert run(["label", str(pairs), "--scripted", "bold"]) == 0
    assert (pairs / "labels/scripted_bold.json").is_file()


def test_only_the_main_process_tells_of_a_mistake(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    assert run(["pretrain", "gone.yaml"]) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", [["pretrain", "digits/pretrain.yaml"], ["label", "x", "--scripted", "bold"]])
def test_what_several_processes_would_each_do_in_one_folder_is_refused(command, monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(command) == 2
    assert f"'{command[0]}' is for one process; start it without accelerate launch" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["pertrain"], ["label", "x", "--compare", "y"], ["label", "x", "--scripted", "b", "--noise", "y"]]
)
def test_what_is_no_command_exits_with_2(arguments, capfd):
    with pytest.raises(SystemExit, match="2"):
        run(arguments)
    assert "usage: rlhf-images" in capfd.readouterr().err


def stages() -> set[str]:
    (table,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return set(table.choices)


def test_help_shows_every_stage_and_its_configs_without_waiting_for_torch(tmp_path):
    code = (
        "import sys, rlhf_images.cli as cli\n"
        "for stage in ['', *sys.argv[1:]]:\n"
        "    try: cli.run([stage, '--help'] if stage else ['--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'datasets', 'numpy', 'reward_models'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *sorted(stages())], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    for stage in stages():
        assert f"\n    {stage}" in shown.stdout
        assert f"usage: rlhf-images {stage} " in shown.stdout
    for config in SHIPPED.values():
        assert f"digits/{config}.yaml" in shown.stdout


def test_each_stage_has_its_thin_script():
    others = {
        "label",
        "evaluate",
        "report",
        "import-pairs",
        "export-pairs",
        "score",
        "serve-reward",
        "plan",
        "choose",
        "loop",
        "doctor",
    }
    assert stages() == {*SHIPPED, *others}
    called = {}
    for path in (SOURCE / "scripts").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert [call.func.id for call in calls] == ["stage"], path
        called[path.stem] = calls[0].args[0].value
    assert called == {stage.replace("-", "_"): stage for stage in stages()}


def test_a_process_ends_with_code_2_and_one_line(tmp_path):
    command = [sys.executable, SOURCE / "scripts/label.py", "gone", "--scripted", "bold"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("rlhf-images: gone: no pairs in it")
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
