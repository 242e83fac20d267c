"""Pretraining through the command line: stopped and continued is never stopped, and what is set aside is on record."""

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import datasets
import pytest
from diffusers import DiffusionPipeline

from rlhf_images.checkpoint import save_checkpoint
from rlhf_images.cli import run
from rlhf_images.data import digits, encode
from rlhf_images.generators.tiny import TinyConfig
from rlhf_images.pretrain import PretrainConfig

SMALL = [
    "size=8",
    "model={layers: 1, heads: 1, channels: [8, 8], text_width: 16, text_tokens: 6}",
    "autoencoder={steps: 30, batch: 4}",
    "transformer={steps: 30, batch: 4}",
    "checkpoint_every=7",
]


def pretrain(out: Path, *overrides: str) -> int:
    return run(["pretrain", "digits/pretrain.yaml", f"out={out}", *SMALL, *overrides])


def weights(folder: Path) -> dict[str, str]:
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".json", ".txt") and path.name not in ("run.json", "model_index.json")
    }
    assert any(name.startswith("transformer/") for name in found)
    return found


@pytest.fixture
def terminated_after():
    """Return a function that sends one SIGTERM, ``seconds`` after somebody begins to listen for it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal too late must not end the tests
    threads = []

    def send(seconds: float) -> None:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    def start(seconds: float) -> None:
        threads.append(threading.Thread(target=send, args=(seconds,), daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(20)
    signal.signal(signal.SIGTERM, before)


def test_a_model_without_a_resolution_is_told_so():
    with pytest.raises(ValueError, match=r"model\.channels: no resolution"):
        PretrainConfig(data="digits", out="x", size=16, model=TinyConfig(channels=()))


def test_stopped_anywhere_and_continued_is_never_stopped(tmp_path, terminated_after, capfd):
    assert pretrain(tmp_path / "whole") == 0
    capfd.readouterr()
    stops = 0
    for seconds in (0, 0.1, 0.25, 0.4, 0.1, 0):
        terminated_after(seconds)
        code = pretrain(tmp_path / "stopped")
        stops += code == 143
        if code == 0:
            break
        message = capfd.readouterr().err.splitlines()[-1]
        assert "stopped by SIGTERM; step " in message
        assert message.endswith(" is saved; the same command continues")
        assert not json.loads((tmp_path / "stopped/run.json").read_text())["finished"]
    assert stops >= 2
    assert pretrain(tmp_path / "stopped") == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert not (tmp_path / "stopped/checkpoints").exists()


def test_stopped_after_the_last_step_and_continued_is_never_stopped(tmp_path, monkeypatch):
    """What continues then encodes no prompt before it saves the pipeline."""

    def save_and_be_stopped(folder, step, *state):
        save_checkpoint(folder, step, *state)
        if folder.name == "transformer":
            os.kill(os.getpid(), signal.SIGTERM)

    assert pretrain(tmp_path / "whole", "checkpoint_every=1000") == 0
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_images.pretrain.save_checkpoint", save_and_be_stopped)
        assert pretrain(tmp_path / "stopped", "checkpoint_every=1000") == 143
    assert pretrain(tmp_path / "stopped", "checkpoint_every=1000") == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_the_result_is_a_pipeline_that_is_left_alone_once_it_is_there(tmp_path, capfd):
    assert pretrain(tmp_path / "made") == 0
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "made")
    assert type(pipe).__name__ == "StableDiffusion3Pipeline"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    assert pretrain(tmp_path / "made") == 0
    assert "already trained" in capfd.readouterr().out
    assert pretrain(tmp_path / "made", "seed=1") == 2
    assert "seed 0→1" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before


def test_a_loss_that_is_no_number_stops_with_its_own_code(tmp_path, capfd):
    assert pretrain(tmp_path / "made", "autoencoder.lr=1e30") == 3
    assert "autoencoder: loss is nan at step" in capfd.readouterr().err
    assert not (tmp_path / "made/model_index.json").exists()
    assert not json.loads((tmp_path / "made/run.json").read_text())["finished"]


def test_corrupt_pictures_are_set_aside_counted_and_named(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    pictures = {f"{i}.png": encode(image) for i, image in enumerate(digits(8)[0][:6])}
    pictures |= {"broken.png": pictures["0.png"][:40], "text.png": b"no picture"}
    for name, content in pictures.items():
        (tmp_path / "set" / name).write_bytes(content)
    rows = [json.dumps({"file_name": name, "text": "a digit"}) for name in pictures]
    (tmp_path / "set/metadata.jsonl").write_text("\n".join(rows))
    code = pretrain(tmp_path / "made", f"data={tmp_path / 'set'}", "autoencoder.steps=1", "transformer.steps=1")
    assert code == 0
    told = capfd.readouterr().out
    assert "6 captioned pictures, 2 set aside" in told
    record = json.loads((tmp_path / "made/run.json").read_text())
    assert record["pictures"] == 6
    assert sorted(Path(name).name for name, _ in record["set_aside"]) == ["broken.png", "text.png"]
    assert all(f"set aside: {name} ({reason})" in told for name, reason in record["set_aside"])
