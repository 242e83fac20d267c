"""docs/failures.md: each row's proof exists, each exit code is listed; and rows that no other test shows."""

import ast
import re
import signal
from functools import partial
from pathlib import Path

import pytest
from forked import kill_at, launched
from tiny_runs import PROMPTS, tiny_generator

from rlhf_images import errors
from rlhf_images.config import build
from rlhf_images.errors import BadInput, Stop
from rlhf_images.generate import GenerateConfig, generate
from rlhf_images.preferences import Pairs

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/failures.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 25
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert not name or name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)


def test_every_failure_names_a_test_and_a_code_of_the_table():
    listed = {code for cell in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE) for code in cell.split(", ")}
    table = TEXT.partition("## Failure, behaviour, proof")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    assert len(rows) > 20
    for failure, behaviour, code, proof in rows:
        assert failure.strip(), behaviour
        assert behaviour.strip(), failure
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", proof), failure
        assert {part for part in code.strip().split(", ") if part} <= listed, failure
    assert listed - {"0", "1"} == {part for row in rows for part in row[2].strip().split(", ") if part}


def test_every_exit_code_is_in_the_table():
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Stop)}
    listed = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE) for code in cell.split(",")}
    assert codes <= listed
    assert listed - codes == {0, 130, 143}


KINDS = {
    "emoji": "🦊👩‍🚀🏳️‍🌈 in the snow",
    "right to left": "ثعلب أحمر في الثلج",
    "both ways": "a \u202efox\u202c שועל",
    "nul": "a fox\x00in the snow",
    "control": "a\x07fox\x1b[31m",
    "marks": "f" + "\u0301" * 200 + "ox",
    "long": "fox " * 2499 + "snow",
    "one long word": "f" * 10_000,
    "lone surrogate as text": "a fox \\ud83e",
    "unassigned": "a fox \U000e0fff\uffff",
    "quotes": "a \"fox\" in 'snow'; --",
    "spaces": "a\u00a0fox\u3000in\u2009snow",
}


def test_prompts_of_every_kind_are_drawn_or_refused(generator, tmp_path):
    config = {
        "generator": {"path": str(generator), "steps": 1, "call": {"max_sequence_length": 6}},
        "prompts": ["", " ", *KINDS.values()],
        "out": str(tmp_path / "pairs"),
        "pairs_per_prompt": 1,
        "micro_size": 4,
    }
    generate(build(GenerateConfig, config, "test"))
    pairs = Pairs(tmp_path / "pairs")
    assert list(dict.fromkeys(pair.prompt for pair in pairs.pairs)) == list(KINDS.values())
    assert all(pairs.image(pair.left).isfinite().all() for pair in pairs.pairs)
    for prompts in (["", " "], ["f" * 10_001]):
        with pytest.raises(BadInput, match="prompt"):
            generate(build(GenerateConfig, config | {"prompts": prompts, "out": str(tmp_path / "none")}, "test"))
    assert not (tmp_path / "none").exists()


def test_generate_killed_at_its_writes_leaves_nothing_that_is_taken_for_whole(generator, tmp_path):
    config = {
        "generator": {"path": str(generator), "steps": 1, "call": {"max_sequence_length": 6}},
        "prompts": PROMPTS,
        "pairs_per_prompt": 2,
    }
    whole, torn = ({**config, "out": str(tmp_path / name)} for name in ("whole", "torn"))
    assert launched("generate", whole).codes() == [0]
    for operation in (1, 4, 12, 30, 45):
        launch = launched("generate", torn, 1, partial(kill_at, operation))
        if launch.codes() == [0]:
            break
        assert launch.codes() == [-signal.SIGKILL]
        with pytest.raises(BadInput, match="no pairs"):
            Pairs(torn["out"])
    assert operation > 12
    assert launched("generate", torn).codes() == [0]
    for name in ("pairs.jsonl", "pictures.jsonl"):
        files = (Path(values["out"]) / name for values in (whole, torn))
        assert len({file.read_bytes() for file in files}) == 1
    assert len(Pairs(torn["out"]).pairs) == 4
