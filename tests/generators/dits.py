"""Tiny pipelines around a diffusion transformer that reads its text by cross-attention."""

import diffusers as d
import torch
from parts import bert, language_model, t5, tokenizer, vae, vae_dc
from unets import BETAS


def pixart(kind=d.PixArtSigmaPipeline, **extra):
    return kind(
        transformer=d.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            norm_type="ada_norm_single",
            use_additional_conditions=False,
        ),
        vae=vae(),
        scheduler=d.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        **extra,
    )


def sana(kind=d.SanaPipeline, **extra):
    return kind(
        transformer=d.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=32,
            sample_size=8,
        ),
        vae=vae_dc(),
        scheduler=d.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
        ),
        text_encoder=language_model("Gemma2"),
        tokenizer=tokenizer(),
        **extra,
    )


def hunyuan(kind=d.HunyuanDiTPipeline, **extra):
    return kind(
        transformer=d.HunyuanDiT2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            cross_attention_dim=32,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
            hidden_size=16,
            text_len=77,
            text_len_t5=256,
            activation_fn="gelu-approximate",
        ),
        vae=vae(),
        scheduler=d.DDPMScheduler(
            **{**BETAS, "beta_end": 0.03}, prediction_type="v_prediction", clip_sample=False, timestep_spacing="leading"
        ),
        text_encoder=bert(),
        tokenizer=tokenizer(77),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(256),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **extra,
    )


def lumina():
    transformer = d.LuminaNextDiT2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        ffn_dim_multiplier=None,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=32,
        scaling_factor=1.0,
    )
    torch.nn.init.ones_(transformer.pad_token)  # which it leaves as the memory was
    return d.LuminaPipeline(
        transformer=transformer,
        vae=vae(levels=4),
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        text_encoder=language_model("Gemma"),
        tokenizer=tokenizer(),
    )


def prx():
    return d.PRXPipeline(
        transformer=d.PRXTransformer2DModel(
            in_channels=4, patch_size=2, context_in_dim=32, hidden_size=16, num_heads=2, depth=2, axes_dim=[4, 4]
        ),
        vae=vae(),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        default_sample_size=256,
    )
