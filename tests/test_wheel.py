"""The wheel, away from the source tree: it has its configs and page files, shows its help, and runs a stage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1]

BOTH = """
import json, sys
import rlhf_images, reward_models
from rlhf_images.cli import run
print(rlhf_images.__file__, reward_models.__file__)
codes = [run(arguments) for arguments in json.loads(sys.argv[1])]
print("codes", *codes)
"""


def ran(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(folder: Path) -> Path:
    """Return a wheel of the source tree as it is, built from a copy so that nothing ignored can slip in."""
    names = ran("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=SOURCE)
    for name in filter(None, names.split("\0")):
        if (SOURCE / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, folder / "source" / name)
    dist = str(folder / "dist")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=folder / "source")
    shutil.rmtree(folder / "source")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder into which the wheel was installed, and nothing else."""
    if shutil.which("git") is None or not (SOURCE / ".git").exists():
        pytest.skip("not in a git repository: no telling which files belong to the source")
    folder = tmp_path_factory.mktemp("wheel")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    ran(*install, "--target", str(folder / "target"), str(built(folder)), cwd=folder)
    return folder / "target"


def started(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_everything_that_is_no_test_is_inside(installed):
    for package in ("rlhf_images", "reward_models"):
        ours = {path.relative_to(SOURCE) for path in (SOURCE / package).rglob("*") if "__pycache__" not in path.parts}
        ours = {path for path in ours if (SOURCE / path).is_file()}
        assert ours
        assert all((installed / path).read_bytes() == (SOURCE / path).read_bytes() for path in ours)
    configs = {path.relative_to(SOURCE / "configs") for path in (SOURCE / "configs").rglob("*.yaml")}
    assert len(configs) >= 4
    for path in configs:
        assert (installed / "rlhf_images/configs" / path).read_bytes() == (SOURCE / "configs" / path).read_bytes()
    assert list((installed / "rlhf_images/report/templates").glob("*.html"))
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"bin", "rlhf_images", "reward_models"}


def test_the_console_command_shows_its_help_and_the_shipped_configs(installed, tmp_path):
    shown = started(installed, tmp_path, str(installed / "bin/rlhf-images"), "pretrain", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "digits/pretrain.yaml" in shown.stdout
    assert shown.stderr == ""


def test_a_stage_runs_from_a_shipped_config_in_an_empty_folder(installed, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(b"no picture")
    (tmp_path / "set/metadata.jsonl").write_text('{"file_name": "a.png", "caption": "a"}\n')
    good = ["pretrain", "digits/pretrain.yaml", "out=made", "autoencoder.steps=2", "transformer.steps=2"]
    small = ["model.layers=1", "model.heads=1", "autoencoder.batch=4", "transformer.batch=4"]
    commands = [["pretrain", "digits/pretrain.yaml", "data=set", "out=new"], [*good, *small], [*good, *small]]
    ended = started(installed, tmp_path, sys.executable, "-P", "-c", BOTH, json.dumps(commands))
    assert ended.returncode == 0, ended.stderr
    first, *story = ended.stdout.splitlines()
    assert first.split() == [str(installed / name / "__init__.py") for name in ("rlhf_images", "reward_models")]
    assert story[-1] == "codes 2 0 0"
    assert "1797 captioned pictures, 0 set aside" in story
    assert any(line.startswith("made: already trained") for line in story)
    told = [line for line in ended.stderr.splitlines() if not line.startswith(("autoencoder: ", "transformer: "))]
    assert told == ["rlhf-images: set: no column 'text'; it has image, caption"]
    assert not (tmp_path / "new").exists()
    record = json.loads((tmp_path / "made/run.json").read_text())
    assert record["finished"] is True
    assert record["commit"] is None
    assert record["versions"]["rlhf-images"] != "not installed"
    assert (tmp_path / "made/model_index.json").is_file()
    assert not (tmp_path / "made/checkpoints").exists()
