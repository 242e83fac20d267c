"""The embedded default: a genuine Stable Diffusion 3 pipeline with tiny components, built from nothing, offline.

Every class is diffusers' or transformers' own, so what `save_pretrained` writes, `DiffusionPipeline.from_pretrained`
reads, and everything that tunes this pipeline tunes SD3.5 unchanged. The text encoders stay at their random
initialisation: with a small vocabulary, random embeddings tell prompts apart, and the transformer learns the rest.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ..config import Count


@final
@dataclass(frozen=True)
class TinyConfig:
    """The sizes of a small SD3 pipeline. Attention heads are 32 wide."""

    layers: Count = 4
    """Blocks of the transformer."""
    heads: Count = 4
    """Attention heads; the width is 32 times this."""
    patch: Count = 2
    """Side of a token in latent pixels."""
    latent_channels: Count = 4
    """Channels of the autoencoder's latents; it halves the picture's side once per entry but one of `channels`."""
    channels: tuple[int, ...] = (16, 32)
    """Feature channels of the autoencoder at each resolution."""
    text_width: Count = 32
    """Width of each text encoder."""
    text_tokens: Count = 12
    """Longest prompt, in tokens."""
    vocabulary: Count = 512
    """Most words that the tokenizer learns from the captions; any other word is unknown to it."""


def build(config: TinyConfig, size: int, captions: Sequence[str], seed: int) -> StableDiffusion3Pipeline:
    """Return an untrained pipeline for pictures of ``size`` pixels, its tokenizer learnt from ``captions``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = word_tokenizer(captions, config.text_tokens, config.vocabulary)
        width = 32 * config.heads
        return StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=size >> (len(config.channels) - 1),
                patch_size=config.patch,
                in_channels=config.latent_channels,
                out_channels=config.latent_channels,
                num_layers=config.layers,
                attention_head_dim=32,
                num_attention_heads=config.heads,
                caption_projection_dim=width,
                joint_attention_dim=2 * config.text_width,
                pooled_projection_dim=2 * config.text_width,
                pos_embed_max_size=size,
                qk_norm="rms_norm",
            ),
            vae=autoencoder(config, size),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=_clip(tokenizer, config),
            text_encoder_2=_clip(tokenizer, config),
            text_encoder_3=_t5(tokenizer, config),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=tokenizer,
        )


def autoencoder(config: TinyConfig, size: int) -> AutoencoderKL:
    """Return an untrained convolutional autoencoder."""
    depth = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def word_tokenizer(captions: Sequence[str], length: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the ``vocabulary`` most frequent words of ``captions``, for prompts of ``length`` tokens.

    All three encoders share it. Whole words: learning byte pairs breaks ties at random, so no two runs would agree.
    """
    words = Counter(word for caption in captions for word in re.findall(r"\w+|[^\w\s]", caption.lower()))
    ranked = sorted(words, key=lambda word: (-words[word], word))
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *ranked[:vocabulary]]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokens.index("<s>")), ("</s>", tokens.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def _clip(tokenizer: Any, config: TinyConfig) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=2 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=config.text_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5(tokenizer: Any, config: TinyConfig) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=2 * config.text_width,
            d_kv=16,
            d_ff=2 * config.text_width,
            num_layers=1,
            num_heads=2,
        )
    )
