"""The smallest tokenizers, text encoders and autoencoders, of which the families in `families` are put together."""

import functools
import tempfile
from pathlib import Path

import transformers as t
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderKLQwenImage21

from rlhf_images.generators.tiny import word_tokenizer

PROMPTS = ["a red cube", "two green spheres on a table", "fog"]
CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{{ message['content'][0]['text'] }}{% endif %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
SPECIAL = ["im_start", "im_end", "image_pad", "video_pad", "vision_start", "vision_end"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 32}


def tokenizer(length=16):
    """Whole words of the prompts; all else is unknown to it."""
    return word_tokenizer(PROMPTS, length, 400)


def chat_tokenizer(length=128):
    """One that also knows the marks of a conversation."""
    words = tokenizer(length)
    words.chat_template = CHAT
    words.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in SPECIAL]})
    return words


@functools.cache
def sentencepiece_file():
    import sentencepiece

    folder = Path(tempfile.mkdtemp(prefix="tokenizer"))
    (folder / "text.txt").write_text("\n".join(PROMPTS * 9))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=23, minloglevel=2
    )
    return str(folder / "tokenizer.model")


def sizes(tokens=None):
    tokens = tokens or chat_tokenizer()
    return {
        "vocab_size": len(tokens),
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
    }


def clip(kind=t.CLIPTextModel, width=32, length=16):
    return kind(
        t.CLIPTextConfig(
            **sizes(tokenizer()),
            hidden_size=width,
            intermediate_size=37,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=length,
        )
    )


def t5(config=t.T5Config, kind=t.T5EncoderModel):
    return kind(config(vocab_size=len(tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4))


def bert():
    settings = {name: size for name, size in SMALL.items() if name not in ("num_key_value_heads", "head_dim")}
    return t.BertModel(t.BertConfig(**sizes(tokenizer()), **settings))


def language_model(name, model="Model", **extra):
    """``Qwen3``, ``Gemma2``, ``Glm`` and their kind."""
    config = getattr(t, f"{name}Config")(**sizes(), **{**SMALL, **extra})
    return getattr(t, f"{name}{model}")(config)


def qwen25vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**sizes(), **SMALL, "rope_parameters": rope}
    config = t.Qwen2_5_VLConfig(text_config=text, vision_config={**VISION, "fullatt_block_indexes": [0]})
    return t.Qwen2_5_VLForConditionalGeneration(config)


def qwen3vl(kind=t.Qwen3VLForConditionalGeneration, layers=2):
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {**sizes(), **SMALL, "num_hidden_layers": layers, "rope_parameters": rope}
    vision = {**VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 4}
    return kind(t.Qwen3VLConfig(text_config=text, vision_config=vision))


def qwen3vl_processor(length=16):
    pictures = t.Qwen2VLImageProcessor(patch_size=4, temporal_patch_size=1, merge_size=1)
    words = chat_tokenizer(length)
    return t.Qwen3VLProcessor(pictures, words, t.Qwen3VLVideoProcessor(), chat_template=CHAT)


def vae(channels=4, levels=2, **extra):
    settings = {"shift_factor": 0.05, "scaling_factor": 0.6, **extra}
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16)[:levels],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **settings,
    )


def vae_flux2():
    return AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def vae_qwen():
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.0, 0.1],
        latents_std=[1.1, 0.9, 1.0, 1.2],
    )


def vae_qwen21():
    return AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.0, 0.1],
        latents_std=[1.1, 0.9, 1.0, 1.2],
    )


def vae_dc():
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41,
    )
