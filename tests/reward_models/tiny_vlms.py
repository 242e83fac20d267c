"""Vision-language models in miniature: the published classes, processors and file layouts, with random weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from reward_models.chat import Chat, Question

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}IMAGE{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = ("yes", "no", "Yes", "No", "A", "B", "the", "picture", "good", "show", "Does")


def tokenizer(specials: list[str], **named: str) -> PreTrainedTokenizerFast:
    """Bytes, a few whole words, and what a family marks pictures with."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {piece: number for number, piece in enumerate([*alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = ""
        for letter in word:
            if left and (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
            words.setdefault(left, len(words))
        merges.append(("Ġ", word))
        words.setdefault("Ġ" + word, len(words))
    made = Tokenizer(models.BPE(words, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "<eos>", *specials)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", extra_special_tokens=named, padding_side="left"
    )


def gemma3(folder: Path) -> Path:
    """Write a Gemma 3 of two layers that sees 28×28 pixels as four tokens."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer([*names.values(), "<|user|>", "<|assistant|>"], **names)
    ids = {name: words.convert_tokens_to_ids(text) for name, text in names.items()}
    config = Gemma3Config(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 512,
            "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None,
            "max_position_embeddings": 1024,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7,
        },
        mm_tokens_per_image=4, boi_token_index=ids["boi_token"], eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"], pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    pictures = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    template = TEMPLATE.replace("IMAGE", "<start_of_image>")
    return _written(folder, config, Gemma3Processor(pictures, words, template, image_seq_length=4))


def qwen3_5(folder: Path) -> Path:
    """Write a Qwen 3.5 of one linear and one full attention layer."""
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer([*marks, "<|user|>", "<|assistant|>"], image_token=marks[2], video_token=marks[3])
    start, end, image, video = (words.convert_tokens_to_ids(mark) for mark in marks)
    config = Qwen3_5Config(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"], "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 2, "pad_token_id": words.pad_token_id,
            "eos_token_id": words.eos_token_id, "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0], "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [],
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    pictures = Qwen2VLImageProcessor(size={"shortest_edge": 256, "longest_edge": 1024}, **sizes)
    videos = Qwen3VLVideoProcessor(size={"shortest_edge": 256, "longest_edge": 1024}, **sizes)
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return _written(folder, config, Qwen3VLProcessor(pictures, words, videos, template))


def _written(folder: Path, config: Any, processor: Any) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"]
    return folder


VLMS = {"gemma3": gemma3, "qwen3_5": qwen3_5}


class Scripted(Chat):
    """Answers by a function of the pictures' brightness and the text."""

    def __init__(self, first: Callable[[list[float], str], float]) -> None:
        self.first = first
        self.asked: list[tuple[str, Sequence[str]]] = []

    @property
    def id(self) -> str:
        return "scripted-000000000000"

    def chances(self, questions: Sequence[Question], answers: Sequence[str]) -> torch.Tensor:
        self.asked += [(question.text, answers) for question in questions]
        found = [
            self.first([float(x.detach().float().mean()) for x in question.images], question.text)
            for question in questions
        ]
        return torch.tensor([[p, 1 - p] for p in found])
