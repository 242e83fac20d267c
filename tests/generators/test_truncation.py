"""Prompts that are longer than a pipeline reads are told, whichever way it cuts them."""

import dataclasses

import pytest
import torch
from families import FAMILIES, family

from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator
from rlhf_images.generators.truncation import by_all
from rlhf_images.randomness import Randomness

SHORT, LONG = "fog", "fog over a lake" + " and a lake" * 200
REFUSES = "Ideogram 4"

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in (".* is deprecated", "The following part of your input")
]


def fresh(name, **changes):
    pipe, config = family(name)
    return Generator(pipe, dataclasses.replace(config, **changes))


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row.full and name != REFUSES])
def test_a_prompt_is_said_to_be_cut_if_and_only_if_more_words_change_nothing(name, capsys):
    generator = fresh(name)
    generator.remember([LONG, SHORT])
    said = capsys.readouterr().out

    def picture(prompt):
        return generator.sample([prompt], Randomness(0).generators("sample", [0])).images

    cut = by_all(generator.cut)
    for prompt in (SHORT, LONG):
        assert torch.equal(picture(prompt), picture(f"{prompt} fog")) == (prompt in cut)
    assert cut == ({LONG} if name != "Qwen-Image 2.1" else set())
    if cut:
        assert "of 2 prompts " in said
        assert "cuts 1" in said
        assert "1 are read to their end by none" in said
    else:
        assert said == ""


def test_by_how_much_it_is_cut_is_counted_for_each_encoder():
    """CLIP's words and T5's pieces are the same here: so many words, less what fits beside their own marks."""
    generator = fresh("SD3")
    generator.remember([LONG, SHORT])
    tokens = {name: len(generator.pipe.components[name](LONG).input_ids) for name in generator.cut}
    assert len(tokens) == 3
    for name, lost in generator.cut.items():
        assert lost == {LONG: tokens[name] - 16}


def test_an_encoder_that_reads_further_than_the_others_is_named():
    pipe, config = family("SD3")
    generator = Generator(pipe, dataclasses.replace(config, call={**config.call, "max_sequence_length": 256}))
    words = "fog over a lake" + " and a lake" * 10
    generator.remember([words])
    assert by_all(generator.cut) == set()
    assert [name for name, lost in generator.cut.items() if lost] == ["tokenizer", "tokenizer_2"]


def test_a_pipeline_that_refuses_what_is_too_long_does_so_before_anything_is_drawn():
    with pytest.raises(BadInput, match="exceeds max_sequence_length"):
        fresh(REFUSES).remember([LONG, SHORT])


@pytest.mark.parametrize("encoders", ["offload", "drop"])
def test_it_is_said_before_the_encoders_go_and_the_longest_is_not_remembered_twice(encoders, tmp_path, capsys):
    for _ in range(2):  # the second time every encoding comes from the folder
        generator = fresh("SD3", text_encoders=encoders, prompt_cache=str(tmp_path))
        generator.remember([LONG, SHORT])
        assert by_all(generator.cut) == {LONG}
        assert "tokenizer_3 cuts 1" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
