"""Prompts: what a source may be, and a stream that needs no cursor."""

import re
from collections import Counter

import pytest

from rlhf_images.data import DIGIT_CAPTIONS
from rlhf_images.errors import BadInput
from rlhf_images.prompts import MAX_CHARACTERS, PromptStream, read_prompts

ODD = ["a cat", "ein Mädchen", "猫 🐈", "קוּף", "nul \0 inside", "line\u2028separator and\x85next", "x" * MAX_CHARACTERS]


def test_digits_are_the_ten_captions():
    assert read_prompts("digits") == list(DIGIT_CAPTIONS)


def test_a_file_has_one_prompt_a_line_whatever_is_in_the_line(tmp_path):
    path = tmp_path / "prompts.txt"
    for begin, end in (("", "\n"), ("\ufeff", "\r\n")):
        path.write_bytes((begin + end.join(["", *ODD, "  a cat  ", "   "]) + end).encode())
        assert read_prompts(str(path)) == ODD


def test_a_list_is_stripped_and_told_apart():
    assert read_prompts((" a ", "b", "a", "")) == ["a", "b"]


@pytest.mark.parametrize("text", ["", "\n\n  \n", "\ufeff"])
def test_a_file_without_prompts_is_refused(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"prompts\.txt: no prompts in it"):
        read_prompts(str(path))


@pytest.mark.parametrize("source", ["gone.txt", ".", "a cat on a mat " * 50, "nul\0"])
def test_what_is_no_file_is_refused(source):
    with pytest.raises(BadInput, match="no such prompt file"):
        read_prompts(source)


@pytest.mark.parametrize("source", [(), ("", "  ")])
def test_a_list_without_prompts_is_refused(source):
    with pytest.raises(BadInput, match="no prompts in it"):
        read_prompts(source)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a cat\n\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_prompts(str(path))


def test_a_prompt_too_long_is_refused_in_short():
    with pytest.raises(BadInput, match="10001 characters") as raised:
        read_prompts(("x" * (MAX_CHARACTERS + 1),))
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(("size", "count"), [(10, 4), (7, 7), (3, 10), (1, 5), (12, 5)])
def test_over_every_pass_each_prompt_comes_once(size, count):
    stream = PromptStream([f"p{i}" for i in range(size)], seed=3)
    drawn = [prompt for step in range(6 * size) for prompt in stream.take(step, count)]
    for start in range(0, len(drawn) - size + 1, size):
        assert Counter(drawn[start : start + size]) == Counter(stream.prompts)


def test_a_step_is_a_function_of_seed_and_step_alone():
    prompts = [f"p{i}" for i in range(50)]
    forwards = [PromptStream(prompts, 1).take(step, 8) for step in range(40)]
    backwards = [PromptStream(prompts, 1).take(step, 8) for step in reversed(range(40))][::-1]
    assert forwards == backwards
    assert forwards != [PromptStream(prompts, 2).take(step, 8) for step in range(40)]


def test_each_pass_has_an_order_of_its_own():
    stream = PromptStream([f"p{i}" for i in range(20)], seed=0)
    passes = {tuple(stream.take(step, 20)) for step in range(30)}
    assert len(passes) == 30


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "a cat\r\n\n  a dog ", ["a cat", "a dog"]),
        ("a.jsonl", '{"tag": 1, "prompt": "a cat\\u2028b"}\n\n{"prompt": "a dog"}\n', ["a cat\u2028b", "a dog"]),
        ("a.jsonl", '"a cat"\n"a dog"', ["a cat", "a dog"]),
        ("a.json", '["a cat", "a dog", "a cat"]', ["a cat", "a dog"]),
        ("a.json", '[{"id": "0", "prompt": "a cat"}]', ["a cat"]),
        ("a.json", '{"prompts": ["a cat"]}', ["a cat"]),
        (
            "A.CSV",
            'index,prompt_en,prompt_zh\n0,"a cat,\nsaying ""hi""",x\n1,a dog,y\n',
            ['a cat,\nsaying "hi"', "a dog"],
        ),
        ("a.csv", "\ufeffText,Prompt\nno,a cat\n", ["a cat"]),
        ("a.tsv", 'Prompt\tNote\n"G I G G L E" in paint\t"x\na dog\t\n', ['"G I G G L E" in paint', "a dog"]),
    ],
)
def test_prompt_files_in_the_fields_formats(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_prompts(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"a": 1}', "without a list of prompts"),
        ("a.json", "3", "expected a list"),
        ("a.json", "[" * 100_000, "no prompts can be read"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": 3}', "row 2 has no text in 'prompt'"),
        ("a.jsonl", "{", "no prompts can be read"),
        ("a.csv", "a,b\n1,2\n", "no column 'prompt'; it has a, b"),
        ("a.csv", 'prompt\n"a', "no prompts can be read"),
        ("a.tsv", "", "no prompts in it"),
    ],
)
def test_a_file_that_holds_no_prompts_says_why(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=re.escape(words)):
        read_prompts(str(tmp_path / name))
