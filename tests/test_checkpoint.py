"""Checkpoints: whatever goes wrong at whatever moment, a whole one is left, and what is read is what was written."""

import errno
import os
import resource
import shutil
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from forked import context
from safetensors import SafetensorError

from rlhf_images import checkpoint
from rlhf_images.checkpoint import (
    KEPT,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    prefixed,
    save_checkpoint,
    under,
)


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"weights:w": torch.full((3, 2), float(step)), "optimizer:w/step": torch.tensor(float(step))}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, tensors(step), {"cursor": step * 7})


def loaded(folder: Path) -> int:
    """Return the step of what is loaded, after a look at everything in it; 0 for nothing."""
    found = load_checkpoint(folder)
    if found is None:
        return 0
    values, state = found
    step = state["step"]
    assert state == {"step": step, "cursor": step * 7}
    assert values.keys() == tensors(step).keys()
    assert all(torch.equal(values[name], value) for name, value in tensors(step).items())
    return int(step)


def bits(value: torch.Tensor) -> list[int]:
    return value.detach().contiguous().flatten().view(torch.uint8).tolist()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_kind_of_tensor_comes_back_exactly(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = {
        "float32": torch.randn(3, 4, generator=generator),
        "bfloat16": torch.randn(5, generator=generator).bfloat16(),
        "float64": torch.randn(5, generator=generator).double(),
        "int64": torch.tensor([-(2**60), 2**60]),
        "bool": torch.tensor([True, False]),
        "one number": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "not in a row": torch.randn(4, 6, generator=generator)[:, ::2].T,
        "odd": torch.tensor([torch.nan, torch.inf, -0.0, 1e-45]),
        "with.dots/and slashes: ü": torch.ones(1),
        "wants gradient": torch.nn.Parameter(torch.ones(2)),
    }
    save_checkpoint(tmp_path, 1, values, {"text": "ü", "nested": {"list": [1, 2.5, None, True]}})
    found, state = load_checkpoint(tmp_path)
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert bits(found[name]) == bits(value), name
    assert state == {"text": "ü", "nested": {"list": [1, 2.5, None, True]}, "step": 1}


def test_prefixes_are_taken_off_again():
    both = {**prefixed("a", {"x": torch.ones(1), "a:x": torch.ones(2)}), **prefixed("ab", {"y": torch.ones(3)})}
    assert {name: len(value) for name, value in under("a", both).items()} == {"x": 1, "a:x": 2}
    assert {name: len(value) for name, value in under("ab", both).items()} == {"y": 3}


def test_adamw_goes_on_as_if_it_had_never_stopped(tmp_path):
    def fresh():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.95), weight_decay=0.1)

    def learn(model, optimizer, steps):
        for step in steps:
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()

    model, optimizer = fresh()
    parameters = [name for name, _ in model.named_parameters()]
    learn(model, optimizer, range(3))
    state = {**prefixed("m", model.state_dict()), **prefixed("o", optimizer_tensors(optimizer, parameters))}
    save_checkpoint(tmp_path, 3, state, {})
    learn(model, optimizer, range(3, 6))

    again, again_optimizer = fresh()
    found, _ = load_checkpoint(tmp_path)
    again.load_state_dict(under("m", found))
    load_optimizer_tensors(again_optimizer, parameters, under("o", found))
    learn(again, again_optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    before, after = optimizer_tensors(optimizer, parameters), optimizer_tensors(again_optimizer, parameters)
    assert len(before) == 3 * len(parameters)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_is_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_stay_and_older_ones_go(tmp_path):
    for step in range(1, 12):
        save(tmp_path, step)
        assert names(tmp_path) == [f"step_{kept:08d}" for kept in range(max(1, step - KEPT + 1), step + 1)]
        assert loaded(tmp_path) == step


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "folder"])
def test_a_damaged_one_is_skipped_and_replaced(tmp_path, file, damage):
    save(tmp_path, 10, 20)
    path = tmp_path / "step_00000020" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"cut": data[:-1], "flip": data, "empty": b""}[damage])
    assert loaded(tmp_path) == 10
    save(tmp_path, 20)
    assert loaded(tmp_path) == 20


@pytest.mark.parametrize("manifest", ["null", "[]", "{}", "5", '{"tensors.safetensors": 1}', "\xff"])
def test_a_manifest_that_says_nothing_makes_no_checkpoint(tmp_path, manifest):
    save(tmp_path, 10)
    (tmp_path / "step_00000010/manifest.json").write_text(manifest, encoding="latin-1")
    assert loaded(tmp_path) == 0


def test_damaged_newer_ones_never_displace_a_whole_one(tmp_path):
    save(tmp_path, 40, 50)
    for step in (40, 50):
        (tmp_path / f"step_{step:08d}/state.json").unlink()
    for step in (10, 20, 30):
        save(tmp_path, step)
        assert loaded(tmp_path) == step
    assert names(tmp_path) == ["step_00000020", "step_00000030"]


def test_a_number_that_json_does_not_know_is_refused_and_leaves_nothing(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 2, {}, {"loss": float("nan")})
    assert names(tmp_path) == ["step_00000001"]


class Killed(BaseException):
    """What no ``except`` in the code under test may catch."""


class Fault:
    """Counts what is asked of the disk and fails at one of these; a killed process then does nothing any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.left, self.error = at, error
        self.dead = False
        self.asked: list[str] = []
        """Every operation that could have failed, by its name."""
        self.synced: set[int] = set()
        for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))
        opened = Path.open

        def open_and_write_half(path, mode="r", *args, **kwargs):
            if "w" in mode and self.strikes("open"):
                path.write_bytes(b"half of") if "b" in mode else path.write_text("half of")
                raise self.error
            return opened(path, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", open_and_write_half)
        saved = checkpoint.save_file

        def save_half(tensors, path):
            if self.strikes("save_file"):
                path.write_bytes(b"half of")
                number = getattr(self.error, "errno", None)
                raise SafetensorError(f"I/O error: full (os error {number})") if number else self.error
            saved(tensors, path)

        monkeypatch.setattr(checkpoint, "save_file", save_half)

    def strikes(self, name: str) -> bool:
        if self.dead:
            raise self.error
        self.asked.append(name)
        self.left -= 1
        if self.left == 0:
            self.dead = isinstance(self.error, Killed)
        return self.left == 0

    def failing(self, operation):
        def wrapped(*args, **kwargs):
            if self.strikes(operation.__name__):
                raise self.error
            operation(*args, **kwargs)
            if operation.__name__ == "fsync":
                self.synced.add(os.fstat(args[0]).st_ino)

        return wrapped


def files(folder: Path) -> dict[int, Path]:
    return {path.stat().st_ino: path for path in folder.rglob("*") if path.is_file()}


def save_with_fault(folder: Path, at: int, error: BaseException) -> Fault | None:
    """Save step 30 with a fault at disk operation ``at``; return it, or None where there are not so many operations."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault = Fault(monkeypatch, at, error)
        try:
            save(folder, 30)
        except type(error):
            return fault
    return fault if fault.left <= 0 else None


AUDITED = {"os.rename": "replace", "os.mkdir": "mkdir", "os.remove": "unlink", "os.rmdir": "rmdir"}
"""What Python itself reports of what is asked of the disk, by the name that it has in `Fault`."""


def test_no_operation_of_a_save_is_left_out_of_those_that_fail_here(two_saved, monkeypatch):
    """Counted by Python's audit, of which our code knows nothing; and what is synced, by what is there in the end."""
    folder, reported, hearing = two_saved("audited"), [], [True]

    def hear(event, arguments):
        if hearing and event in AUDITED:
            reported.append(AUDITED[event])
        if hearing and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            reported.append("open")

    before = files(folder)
    fault = Fault(monkeypatch, 0, Killed())
    sys.addaudithook(hear)
    save(folder, 30)
    hearing.clear()
    assert sorted(reported) == sorted(name for name in fault.asked if name not in ("fsync", "save_file"))
    assert {"open", "replace", "mkdir", "rmdir", "unlink"} == set(reported)
    assert fault.asked.count("save_file") == 1
    new = [number for number in files(folder) if number not in before]
    assert len(new) == 3
    assert set(new) <= fault.synced
    assert {path.stat().st_ino for path in (folder, folder.parent)} <= fault.synced


@pytest.fixture
def two_saved(tmp_path):
    """Return a function that makes one more folder with steps 10 and 20 in it."""
    save(tmp_path / "two", 10, 20)
    return lambda name: Path(shutil.copytree(tmp_path / "two", tmp_path / name))


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_crash_before_any_operation_leaves_a_whole_checkpoint(two_saved, power_cut):
    outcomes = []
    for at in range(1, 200):
        folder = two_saved(str(at))
        before = files(folder)
        fault = save_with_fault(folder, at, Killed())
        if fault is None:
            break
        for number, path in files(folder).items() if power_cut else ():
            if number not in before and number not in fault.synced:
                path.write_bytes(b"")  # a power cut takes what was written and not synced
        outcomes.append(loaded(folder))
    assert len(outcomes) > 15
    assert set(outcomes) == {20, 30}
    assert outcomes == sorted(outcomes)


def test_a_disk_that_is_full_at_any_operation_keeps_the_previous_and_leaves_nothing_half(two_saved):
    refused = 0
    for at in range(1, 200):
        folder = two_saved(str(at))
        fault = save_with_fault(folder, at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        if fault is None:
            break
        if loaded(folder) == 20:
            refused += 1
            assert names(folder) == ["step_00000010", "step_00000020"]
        assert loaded(folder) in (20, 30)
    assert refused > 8


def save_until_the_kernel_refuses(folder: Path, limit: int) -> bool:
    """Save step 30 with room for ``limit`` bytes a file; return whether it could."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save(folder, 30)
    except OSError:
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return True


def test_a_write_that_the_kernel_cuts_short_at_any_byte_keeps_the_previous(two_saved):
    """The real thing: the first bytes are on disk, the next one is refused, in Python and in the library's own code."""
    room = max(path.stat().st_size for path in two_saved("measured").rglob("*") if path.is_file())
    for limit in (*range(0, room, 23), room - 1):
        folder = two_saved(str(limit))
        assert not save_until_the_kernel_refuses(folder, limit)
        assert loaded(folder) == 20
        assert names(folder) == ["step_00000010", "step_00000020"]
    assert save_until_the_kernel_refuses(two_saved("enough"), room)


def exit_at(folder: Path, at: int) -> None:
    """Save step 30 in this process, which ends without a word at disk operation ``at``."""

    class Exit(BaseException):
        def __init__(self) -> None:
            if fault:
                os._exit(9)

    fault: list[Fault] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault.append(Fault(monkeypatch, at, Exit))
        save(folder, 30)
    os._exit(0)


def test_a_process_that_ends_at_any_operation_leaves_a_whole_checkpoint_and_the_next_save_stands(two_saved):
    """As above, but the process is gone: no ``finally`` of ours tidies up."""
    outcomes = []
    for at in range(1, 200):
        folder = two_saved(str(at))
        process = context.Process(target=exit_at, args=(folder, at))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
        outcomes.append(loaded(folder))
        save(folder, 40)
        assert loaded(folder) == 40
        assert names(folder)[-1] == "step_00000040"
        assert len(names(folder)) == KEPT
    assert len(outcomes) > 15
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {20, 30}


@pytest.mark.parametrize("whole", [True, False])
def test_the_same_step_again_never_leaves_a_moment_without_it(two_saved, whole):
    """Saved twice, or once more after it was found damaged: the one there goes when the new one stands."""
    for at in range(1, 200):
        folder = two_saved(str(at))
        if not whole:
            (folder / "step_00000020/state.json").unlink()
        before = loaded(folder)
        with pytest.MonkeyPatch.context() as monkeypatch:
            fault = Fault(monkeypatch, at, Killed())
            try:
                save(folder, 20)
            except Killed:
                assert loaded(folder) in (before, 20)
                continue
            assert fault.left > 0
            break
    assert at > 15
    assert loaded(folder) == 20
    assert len(names(folder)) == KEPT


def test_one_that_is_not_whole_is_passed_over_aloud(tmp_path, capsys):
    save(tmp_path, 10, 20)
    (tmp_path / "step_00000020/tensors.safetensors").write_bytes(b"")
    assert loaded(tmp_path) == 10
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("passed over: checkpoint")
    assert "step_00000020 is not whole" in line


def test_tensors_are_not_copied_to_be_written(tmp_path):
    """A checkpoint of a large run must not need its size again: peak memory while saving 64 MB grows by far less."""
    process = get_context("spawn").Process(target=save_large, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0


def save_large(folder: Path) -> None:
    save(folder / "first", 1)
    large = {f"{i}": torch.ones(2**20) for i in range(16)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save_checkpoint(folder / "large", 1, large, {})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    raise SystemExit(0 if grown < 16_000 else f"{grown} kB more to save 65536 kB")


def test_what_a_crash_left_does_not_pile_up(tmp_path):
    for step in (1, 2, 3):
        save_with_fault(tmp_path / "a", 6, Killed())
        assert len(names(tmp_path / "a")) == 1, step
    save(tmp_path / "a", 40)
    assert names(tmp_path / "a") == ["step_00000040"]
