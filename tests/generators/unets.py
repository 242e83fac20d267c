"""Tiny pipelines around a U-Net, with the schedulers that their checkpoints are released with."""

import diffusers as d
import torch
from parts import clip, sentencepiece_file, t5, tokenizer, vae
from transformers import CLIPTextModelWithProjection

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def unet(**extra):
    return d.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        attention_head_dim=4,
        **{
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            **extra,
        },
    )


def unet_sized(width, **extra):
    """One that also reads the pooled prompt and the picture's size, as SDXL's does."""
    return unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=width + 6 * 8,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        **extra,
    )


def sd15(kind=d.StableDiffusionPipeline, prediction_type="epsilon", scheduler=None, **extra):
    solver = {"skip_prk_steps": True, "set_alpha_to_one": False}
    encoder = clip()
    return kind(
        unet=unet(),
        vae=vae(),
        scheduler=scheduler or d.PNDMScheduler(**BETAS, prediction_type=prediction_type, **solver),
        tokenizer=tokenizer(),
        text_encoder=encoder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **extra,
    )


def sd21_v():
    return sd15(scheduler=d.DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False))


def sdxl(kind=d.StableDiffusionXLPipeline, **extra):
    return kind(
        unet=unet_sized(32, cross_attention_dim=64),
        vae=vae(),
        scheduler=d.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        text_encoder=clip(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        **extra,
    )


def kolors(kind=None, **extra):
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    words = ChatGLMTokenizer(sentencepiece_file())
    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2,
            padded_vocab_size=128,
            hidden_size=32,
            ffn_hidden_size=32,
            kv_channels=8,
            num_attention_heads=4,
            seq_length=256,  # to which its pipeline pads, whatever it is told
            multi_query_attention=True,
            multi_query_group_num=2,
            add_qkv_bias=True,
            original_rope=True,
        )
    )
    for parameter in encoder.parameters():  # which it leaves as the memory was
        torch.nn.init.normal_(parameter, std=0.2)
    return (kind or d.KolorsPipeline)(
        unet=unet_sized(32, cross_attention_dim=32, encoder_hid_dim=32, encoder_hid_dim_type="text_proj"),
        vae=vae(),
        scheduler=d.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        tokenizer=words,
        text_encoder=encoder,
        **extra,
    )


def kandinsky3():
    return d.Kandinsky3Pipeline(
        tokenizer=tokenizer(128),
        text_encoder=t5(),
        unet=d.Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=8,
            groups=2,
            attention_head_dim=4,
            layers_per_block=2,
            block_out_channels=(8, 8, 8, 8),
            cross_attention_dim=8,
            encoder_hid_dim=32,
        ),
        scheduler=d.DDPMScheduler(**{**BETAS, "steps_offset": 0}, clip_sample=False),
        movq=d.VQModel(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            num_vq_embeddings=8,
            vq_embed_dim=4,
        ),
    )
