"""Configs: what YAML says is what the dataclass holds; a mistake is one line with the key, the file and a way out."""

import copy
import dataclasses
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from rlhf_images.config import Count, Fraction, Positive, build, differences, find, load, plain, shipped
from rlhf_images.errors import BadInput


@dataclass(frozen=True)
class Slow:
    name: Literal["slow"] = "slow"
    patience: Positive = 1.0


@dataclass(frozen=True)
class Quick:
    name: Literal["quick"] = "quick"
    bursts: Count = 1


@dataclass(frozen=True)
class Part:
    rank: Count = 4
    scale: Positive = 1.0


@dataclass(frozen=True)
class Whole:
    steps: Count
    prompts: str | tuple[str, ...] = "digits"
    lr: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    algorithm: Annotated[Slow | Quick, Field(discriminator="name")] = field(default_factory=Slow)
    part: Part | None = None
    height: Count | None = None
    call: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    kind: Literal["one", "two"] = "one"

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("13 steps are too many")


STAGES = {
    "pretrain": "rlhf_images.pretrain:PretrainConfig",
    "generate": "rlhf_images.generate:GenerateConfig",
    "finetune": "rlhf_images.finetune:FinetuneConfig",
    "reward": "reward_models.train:TrainRewardConfig",
    "loop": "rlhf_images.loop:LoopConfig",
    **dict.fromkeys(("question", "pairwise", "checklist", "served"), "reward_models.judge:JudgeConfig"),
    "dpo": "rlhf_images.dpo:DPOConfig",
}


def read(tmp_path: Path, text: str | bytes, *overrides: str) -> Whole:
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(Whole, path, overrides)


def refusal(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(BadInput) as raised:
        read(tmp_path, text, *overrides)
    message = str(raised.value)
    assert raised.value.exit_code == 2
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    ("written", "number"),
    [("5e-5", 5e-5), ("1e5", 1e5), ("5e+5", 5e5), ("5E-5", 5e-5), (".5", 0.5), ("1.e-3", 1e-3), ("3", 3.0)],
)
def test_numbers_are_numbers_in_files_and_overrides(tmp_path, written, number):
    assert read(tmp_path, f"steps: 3\nlr: {written}").lr == number
    assert read(tmp_path, "steps: 3", f"lr={written}").lr == number
    assert read(tmp_path, "steps: 3", f"call.x={written}").call == {"x": number}


@pytest.mark.parametrize("text", ["1e5x", "e5", ".e5", "-e5", "5e", "+", "1.2.3"])
def test_text_that_only_begins_like_a_number_is_text(tmp_path, text):
    assert read(tmp_path, f"steps: 3\nprompts: {text}").prompts == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step: 3", "unknown key 'step'; did you mean 'steps'?"),
        ("steps: 3\npart: {rnk: 3}", "unknown key 'part.rnk'; did you mean 'rank'?"),
        ("steps: 3\nzzz: 3", "unknown key 'zzz'; known: steps, prompts"),
        ("steps: 3\nalgorithm: {name: quick, burst: 3}", "unknown key 'algorithm.burst'; did you mean 'bursts'?"),
        ("steps: 3\nalgorithm: {name: quick, patience: 3}", "unknown key 'algorithm.patience'; known: name, bursts"),
        ("steps: 3\nalgorithm: {name: quik}", "algorithm.name: no 'quik'; did you mean 'quick'?"),
        ("steps: 3\nalgorithm: {patience: 3}", "algorithm.name: no ''; known: slow, quick"),
        ("steps: 3\nsteps: 4", "key 'steps' is given twice (line 2)"),
        ("steps: 3\npart: {rank: 1, rank: 2}", "key 'rank' is given twice (line 2)"),
        ("lr: 1", "steps: Field required"),
        ("", "steps: Field required"),
        ("# nothing", "steps: Field required"),
        ("steps: a", "steps: Input should be a valid integer, got 'a'"),
        ("steps: '3'", "steps: Input should be a valid integer, got '3'"),
        ("steps: 3.0", "steps: Input should be a valid integer, got 3.0"),
        ("steps: yes", "steps: Input should be a valid integer, got True"),
        ("steps: 3\nlr: on", "lr: Input should be a valid number, got True"),
        ("steps: 3\nlr: null", "lr: Input should be a valid number, got None"),
        ("steps: 0", "steps: Input should be greater than or equal to 1, got 0"),
        ("steps: 13", "config: 13 steps are too many"),
        ("steps: 3\nlr: -1e-3", "lr: Input should be greater than 0, got -0.001"),
        ("steps: 3\nlr: .nan", "lr: nan is neither text nor a finite number"),
        ("steps: 3\nlr: -.inf", "lr: -inf is neither"),
        ("steps: 3\nlr: 1e999", "lr: inf is neither"),
        ("steps: 3\ncall: {a: [1, .nan]}", "call.a.1: nan is neither"),
        ("steps: 2026-01-01", "steps: 2026-01-01 is neither"),
        ("steps: 3\nprompts: [a, 5]", "prompts.1: Input should be a valid string, got 5"),
        ("steps: 3\nprompts: 5", "prompts: Input should be a valid string or a valid array, got 5"),
        ("steps: 3\nprompts: [" + "a" * 9999 + ", yes]", "prompts.1: Input should be a valid string, got True"),
        ("steps: 3\nkind: " + "a" * 9999, "kind: Input should be 'one' or 'two', got 'aaaa"),
        ("steps: 3\nbetas: [0.9]", "betas.1: Field required"),
        ("steps: 3\nbetas: [0.9, 2]", "betas.1: Input should be less than or equal to 1, got 2"),
        ("steps: 3\nkind: three", "kind: Input should be 'one' or 'two', got 'three'"),
        ("steps: 3\npart: 5", "part: Input should be an object, got 5"),
        ("steps: 3\npart: []", "part: Input should be an object, got []"),
        ("steps: 3\nalgorithm: quick", "algorithm: Input should be an object, got 'quick'"),
        ("steps: 3\npart: {rank: a}", "part.rank: Input should be a valid integer, got 'a'"),
        ("steps: 3\nalgorithm: {name: quick, bursts: a}", "algorithm.bursts: Input should be a valid integer"),
        ("steps: 3\ncall: {a: [1]}", "call.a: Input should be a valid boolean or a valid integer"),
        ("steps: 3\ncall: {1: a}", "key 'call.1' is no text; put it in quotes"),
        ("yes: 3", "unknown key 'True'"),
        ("- a\n- b", "expected 'key: value' lines, found a list"),
        ("steps", "expected 'key: value' lines, found a str"),
        ("\tsteps: 3", "found character '\\t'"),
        ("steps: [3", "expected ',' or ']'"),
        ("{{{", "flow node"),
        ("a: b: c", "mapping values are not allowed here"),
        ("steps: 3\n---\nsteps: 4", "single document"),
        ("? [a, b]\n: c", "a list or section as a key (line 1)"),
        ("steps: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("steps: 3\ncall: &a {x: *a}", "contains itself"),
        ("[" * 1000, "recursion"),
        (b"steps: 3 # \xe9\n", "unacceptable character"),
        (b"steps: 3\0", "unacceptable character"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_file_and_the_key(tmp_path, text, expected):
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'a.yaml'}: ")
    assert expected in message


def test_null_is_nothing_where_nothing_is_allowed(tmp_path):
    config = read(tmp_path, "steps: 3\nheight: null\npart:\ncall: {a: null}")
    assert (config.height, config.part, config.call) == (None, None, {"a": None})


def test_the_tag_chooses_among_sections_of_one_name(tmp_path):
    assert read(tmp_path, "steps: 3\nalgorithm: {name: quick, bursts: 5}").algorithm == Quick(bursts=5)
    assert read(tmp_path, "steps: 3", "algorithm.name=slow", "algorithm.patience=5").algorithm == Slow(patience=5)


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("steps=5", {"steps": 5}),
        ("prompts=[a, b c]", {"prompts": ("a", "b c")}),
        ("prompts=a=b", {"prompts": "a=b"}),
        ("betas=[0, 1]", {"betas": (0.0, 1.0)}),
        ("part.rank=8", {"part": Part(8, 2.0)}),
        ("part=null", {"part": None}),
        ("part={rank: 2}", {"part": Part(2, 1.0)}),
        ("algorithm.patience=2", {"algorithm": Slow(patience=2)}),
        ("call.text=a b", {"call": {"text": "a b"}}),
        ("height=", {"height": None}),
    ],
)
def test_an_override_changes_what_it_names_and_nothing_else(tmp_path, override, changes):
    text = "steps: 3\nheight: 7\npart: {rank: 3, scale: 2}\nalgorithm: {name: slow}"
    assert read(tmp_path, text, override) == dataclasses.replace(read(tmp_path, text), **changes)


def test_of_two_overrides_the_later_counts(tmp_path):
    assert read(tmp_path, "steps: 3", "part.rank=8", "steps=4", "part.rank=9") == Whole(4, part=Part(9))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps", "override 'steps': expected key.sub=value"),
        ("=5", "expected key.sub=value"),
        ("steps.x=5", "'steps' is a value, not a section"),
        ("steps=[1", "override 'steps=[1': "),
        ("part.rnk=5", "unknown key 'part.rnk'; did you mean 'rank'?"),
        ("stepz=5", "unknown key 'stepz'; did you mean 'steps'?"),
        ("lr=.nan", "lr: nan is neither"),
        (".x=5", "unknown key ''"),
        ("prompts=a: b", "prompts: Input should be a valid string"),
    ],
)
def test_a_mistaken_override_is_one_line(tmp_path, override, expected):
    assert expected in refusal(tmp_path, "steps: 3", override)


@pytest.mark.parametrize("missing", ["gone.yaml", ".", "digits", "nul\0"])
def test_a_config_that_is_not_there_lists_the_shipped_ones(missing):
    with pytest.raises(BadInput, match=r"no such config; shipped ones: .*digits/pretrain\.yaml"):
        load(Whole, missing)


def test_plain_and_build_are_inverse(tmp_path):
    text = "steps: 3\nlr: 5e-5\nprompts: [a, b]\npart: {rank: 2}\nalgorithm: {name: quick}\ncall: {a: 1, b: true, c: x}"
    config = read(tmp_path, text)
    values = plain(config)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert build(Whole, values, "run.json") == config
    assert type(build(Whole, values, "run.json").call["b"]) is bool


def test_differences_name_each_field_that_differs():
    before = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": None, "f": {"g": 1}}
    assert differences(before, copy.deepcopy(before)) == []
    after = {"a": 2, "b": {"c": [1, 3], "d": "x"}, "f": None, "new": True}
    found = differences(before, after)
    assert found == ["a 1→2", "b.c [1, 2]→[1, 3]", 'f {"g": 1}→null', "new null→true"]


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_config_is_one_of_its_stage_and_guards_every_section(name, tmp_path):
    module, _, kind = STAGES[Path(name).stem].partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        pytest.skip(f"not written yet: {error}")
    config = load(found, name)
    values = plain(config)
    assert build(found, values, "run.json") == config
    for path in _sections(config):
        changed = copy.deepcopy(values)
        section = changed
        for key in path:
            section = section[key]
        section["unheard_of"] = 1
        with pytest.raises(BadInput, match=rf"unknown key '{'.'.join([*path, 'unheard_of'])}'"):
            build(found, changed, "run.json")


def _sections(config: Any) -> list[list[str]]:
    """Return the path of every dataclass in ``config``, itself first."""
    inner = [
        [name, *path]
        for name in (f.name for f in dataclasses.fields(config))
        if dataclasses.is_dataclass(getattr(config, name))
        for path in _sections(getattr(config, name))
    ]
    return [[], *inner]


def test_there_are_shipped_configs_and_each_stage_is_known():
    assert {"digits/pretrain.yaml", "digits/generate.yaml", "digits/finetune.yaml"} <= set(shipped())
    assert {Path(name).stem for name in shipped()} <= STAGES.keys()


def test_a_shipped_config_is_found_by_both_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("configs/digits/pretrain.yaml") == find("digits/pretrain.yaml")
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/pretrain.yaml").write_text("mine: 1")
    assert find("digits/pretrain.yaml").resolve() == tmp_path / "digits/pretrain.yaml"
