"""What may change when a run continues: every field of every config that resumes is frozen, tracked or free."""

import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import pytest

from rlhf_images import dpo, finetune_config, generate, loop, pretrain, runs
from rlhf_images.changes import Fields
from rlhf_images.config import build, fields_of, plain
from rlhf_images.dpo import DPOConfig
from rlhf_images.errors import BadInput
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generate import GenerateConfig
from rlhf_images.loop import LoopConfig
from rlhf_images.pretrain import PretrainConfig
from rlhf_images.report.words import facts
from rlhf_images.runs import Run, read_record

STAGES = {
    "finetune": (FinetuneConfig, finetune_config.FIELDS, ["algorithm"]),
    "pretrain": (PretrainConfig, pretrain.FIELDS, []),
    "generate": (GenerateConfig, generate.FIELDS, []),
    "loop": (LoopConfig, loop.FIELDS, []),
    "dpo": (DPOConfig, dpo.FIELDS, []),
}
"""Config, its table, and the sections of which every field, also one to come, has one class."""


def listed(fields: Fields) -> list[str]:
    return [*fields.frozen.split(), *fields.tracked.split(), *fields.free.split()]


def unclassified(kind: type, fields: Fields, sections: list[str]) -> list[str]:
    return [
        name
        for name in fields_of(kind)
        if name not in listed(fields) and not any(name.startswith(f"{section}.") for section in sections)
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_is_classified_once_and_no_name_is_left_over(stage):
    kind, fields, sections = STAGES[stage]
    assert unclassified(kind, fields, sections) == []
    assert len(set(listed(fields))) == len(listed(fields))
    assert set(listed(fields)) <= {*fields_of(kind), *sections}
    assert all(fields.kind(name) for name in fields_of(kind))


@pytest.mark.parametrize("stage", STAGES)
def test_a_new_field_anywhere_is_noticed(stage):
    kind, fields, sections = STAGES[stage]
    larger = make_dataclass("Larger", [("novelty", int, field(default=0))], bases=(kind,), frozen=True)
    assert unclassified(larger, fields, sections) == ["novelty"]

    @dataclass(frozen=True)
    class Section:
        novelty: int = 0

    sectioned = make_dataclass("Sectioned", [("section", Section | None, None)], bases=(kind,), frozen=True)
    assert unclassified(sectioned, fields, sections) == ["section", "section.novelty"]


def test_below_a_field_its_class_holds_and_what_nobody_classified_is_refused():
    fields = Fields(frozen="a b.c", tracked="b.d", free="b.e f")
    kinds = {"a": "frozen", "a.x": "frozen", "b.c": "frozen", "b.d.x.y": "tracked", "b.e": "free", "b": None, "z": None}
    assert {key: fields.kind(key) for key in kinds} == kinds
    assert fields.refused(kinds) == ["a", "a.x", "b.c", "b", "z"]
    assert fields.kept(kinds) == ["b.d.x.y"]


BASE = {
    "generator": {"path": "g", "steps": 3},
    "prompts": ["a"],
    "reward": "brightness",
    "out": "o",
    "evaluation": {"prompts": ["a"]},
    "algorithm": {"name": "nft", "kl_weight": 0.1},
}


def opened(folder: Path, values: dict) -> Run:
    return Run("finetune", build(FinetuneConfig, values, "test"), folder, fields=finetune_config.FIELDS)


def changed(values: dict, key: str, value: object) -> dict:
    copy = json.loads(json.dumps(values))
    *sections, last = key.split(".")
    inner = copy
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return copy


OTHERS = {
    "generator.call": {"max_sequence_length": 7},
    "generator.dtype": "bfloat16",
    "generator.text_encoders": "drop",
    "generator.height": 64,
    "generator.width": 64,
    "generator.embedded_guidance": 3.5,
    "prompts": ["b"],
    "evaluation.prompts": ["b"],
    "evaluation.judges": {"legible": "legibility"},
    "evaluation.other_guidance": 4.5,
    "group_size": 12,
    "advantage": "centred",
    "lora": None,
    "lora.target_modules": ["to_q"],
    "optimizer.betas": [0.5, 0.5],
    "trackers": ["tensorboard"],
    "average_decay": 0.5,
    "tolerated_failures": 0.5,
}
"""Another value of the fields for which one more, ``x`` or the opposite is none."""


def another(key: str) -> object:
    value = plain(build(FinetuneConfig, BASE, "test"))
    for part in key.split("."):
        value = value[part]
    if key in OTHERS:
        return OTHERS[key]
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "x"


NAMES = [name for name in fields_of(FinetuneConfig) if not name.startswith("algorithm")]


@pytest.mark.parametrize("key", [*NAMES, "algorithm.name", "algorithm.kl_weight"])
def test_each_field_does_what_its_class_says(tmp_path, key):
    """Frozen: refused by name, the record stays as it was. Tracked: remembered. Free: nothing is made of it."""
    opened(tmp_path / "run", BASE).save()
    before = (tmp_path / "run/run.json").read_bytes()
    values = changed(BASE, key, another(key))
    if key == "algorithm.name":
        values["algorithm"] = {"name": "ram"}
    kind = finetune_config.FIELDS.kind(key)
    if kind == "frozen":
        with pytest.raises(BadInput, match=f"already holds another run .*{key.split('.')[-1]}.*→"):
            opened(tmp_path / "run", values).save()
        assert (tmp_path / "run/run.json").read_bytes() == before
        return
    run = opened(tmp_path / "run", values)
    run.note_changes(40)
    run.save()
    record = read_record(tmp_path / "run")
    assert record["config"] == plain(build(FinetuneConfig, values, "test"))
    if kind == "free":
        assert "changes" not in record
        return
    (line,) = record["changes"]["after step 40"]
    assert line.startswith(key)
    assert "→" in line
    assert ("changes · after step 40", line) in facts(record)  # which is how the report shows it
    again = opened(tmp_path / "run", values)
    again.note_changes(60)
    again.save()
    assert read_record(tmp_path / "run")["changes"] == record["changes"]


def test_changes_add_up_and_so_do_those_of_versions(tmp_path, monkeypatch):
    opened(tmp_path / "run", BASE).save()
    for lr in (0.5, 0.25):
        run = opened(tmp_path / "run", changed(BASE, "optimizer.lr", lr))
        run.note_changes(20)
        run.save()
    versions = runs.versions()
    monkeypatch.setattr(runs, "versions", lambda: {**versions, "torch": "99"})
    run = opened(tmp_path / "run", changed(BASE, "optimizer.lr", 0.25))
    run.note_changes(30)
    run.save()
    assert read_record(tmp_path / "run")["changes"] == {
        "after step 20": ["optimizer.lr 0.0003→0.5", "optimizer.lr 0.5→0.25"],
        "after step 30": [f'torch "{versions["torch"]}"→"99"'],
    }


def test_a_field_that_came_with_a_newer_version_had_its_default_before(tmp_path):
    opened(tmp_path / "run", BASE).save()
    path = tmp_path / "run/run.json"
    record = json.loads(path.read_text())
    del record["config"]["average_decay"], record["config"]["generator"]["dtype"]
    path.write_text(json.dumps(record))
    opened(tmp_path / "run", BASE).save()
    del record["config"]["lora"]
    path.write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"lora\.rank 32→4"):
        opened(tmp_path / "run", changed(BASE, "lora.rank", 4))
