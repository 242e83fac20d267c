"""Tiny pipelines around a diffusion transformer in which text and picture attend to each other."""

import diffusers as d
import transformers as t
from parts import (
    PROMPTS,
    SMALL,
    chat_tokenizer,
    clip,
    language_model,
    qwen3vl,
    qwen3vl_processor,
    qwen25vl,
    sizes,
    t5,
    tokenizer,
    vae,
    vae_flux2,
    vae_qwen,
    vae_qwen21,
)

from rlhf_images.generators.tiny import TinyConfig, build

SHIFTED = {"shift": 3.0, "use_dynamic_shifting": True}


def flow(**extra):
    return d.FlowMatchEulerDiscreteScheduler(**{**SHIFTED, **extra})


def sd3(kind=d.StableDiffusion3Pipeline, **extra):
    pipe = build(TinyConfig(layers=2, heads=1, channels=(8, 16), text_tokens=16), 16, PROMPTS, seed=0)
    pipe.vae.register_to_config(shift_factor=0.05, scaling_factor=0.6)
    pipe.scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return kind(**{name: part for name, part in pipe.components.items() if part is not None}, **extra)


def flux(kind=d.FluxPipeline, guidance_embeds=True):
    return kind(
        transformer=d.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        ),
        vae=vae(),
        scheduler=flow(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        text_encoder=clip(),
        text_encoder_2=t5(),
    )


def flux_schnell():
    return flux(guidance_embeds=False)


def flux_kontext():
    return flux(d.FluxKontextPipeline)


def flux2_transformer(text_width, guidance_embeds):
    return d.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def flux2_klein(is_distilled=False):
    return d.Flux2KleinPipeline(
        transformer=flux2_transformer(96, guidance_embeds=False),
        vae=vae_flux2(),
        scheduler=flow(),
        text_encoder=language_model("Qwen3", "ForCausalLM"),
        tokenizer=chat_tokenizer(512),
        is_distilled=is_distilled,
    )


def flux2():
    """FLUX.2-dev: guidance is an input of its network."""
    text = {**sizes(), **SMALL}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = t.Mistral3Config(text_config=t.MistralConfig(**text), vision_config=t.PixtralVisionConfig(**vision))
    return d.Flux2Pipeline(
        transformer=flux2_transformer(96, guidance_embeds=True),
        vae=vae_flux2(),
        scheduler=flow(),
        text_encoder=t.Mistral3ForConditionalGeneration(config),
        tokenizer=chat_tokenizer(512),
    )


def ideogram4():
    def transformer():
        return d.Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=8,
            llm_features_dim=13 * 32,
            mrope_section=(4, 2, 2),
        )

    return d.Ideogram4Pipeline(
        transformer=transformer(),
        unconditional_transformer=transformer(),
        vae=vae_flux2(),
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        text_encoder=qwen3vl(t.Qwen3VLModel, layers=36),
        tokenizer=chat_tokenizer(512),
    )


def chroma():
    return d.ChromaPipeline(
        transformer=d.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
        vae=vae(),
        scheduler=flow(),
        tokenizer=tokenizer(),
        text_encoder=t5(),
    )


def auraflow():
    return d.AuraFlowPipeline(
        transformer=d.AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pos_embed_max_size=64,
        ),
        vae=vae(shift_factor=None),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=1.73),
        tokenizer=tokenizer(),
        text_encoder=t5(t.UMT5Config, t.UMT5EncoderModel),
    )


def cogview3():
    return d.CogView3PlusPipeline(
        transformer=d.CogView3PlusTransformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=2,
            pos_embed_max_size=8,
            sample_size=8,
        ),
        vae=vae(),
        scheduler=d.CogVideoXDDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            rescale_betas_zero_snr=True,
            snr_shift_scale=4.0,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
        ),
        tokenizer=tokenizer(),
        text_encoder=t5(),
    )


def cogview4():
    return d.CogView4Pipeline(
        transformer=d.CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
        ),
        vae=vae(),
        scheduler=flow(base_shift=0.25, max_shift=0.75, base_image_seq_len=256, time_shift_type="linear"),
        tokenizer=tokenizer(),
        text_encoder=language_model("Glm"),
    )


def lumina2():
    return d.Lumina2Pipeline(
        transformer=d.Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            scaling_factor=1.0,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(128, 128, 128),
            cap_feat_dim=32,
        ),
        vae=vae(levels=4),
        scheduler=flow(),
        text_encoder=language_model("Gemma2"),
        tokenizer=tokenizer(),
    )


def qwen_image(kind=d.QwenImagePipeline):
    return kind(
        transformer=d.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=vae_qwen(),
        scheduler=flow(),
        text_encoder=qwen25vl(),
        tokenizer=chat_tokenizer(128),
    )


def qwen_image21():
    return d.QwenImage21Pipeline(
        transformer=d.QwenImage21Transformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=vae_qwen21(),
        scheduler=flow(),
        text_encoder=qwen3vl(),
        processor=qwen3vl_processor(128),
    )


def z_image(kind=d.ZImagePipeline, siglip_feat_dim=None, **extra):
    return kind(
        transformer=d.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
            siglip_feat_dim=siglip_feat_dim,
        ),
        vae=vae(),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=language_model("Qwen3"),
        tokenizer=chat_tokenizer(512),
        **extra,
    )


def z_image_omni():
    config = t.Siglip2VisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_patches=4, patch_size=4
    )
    parts = {"siglip": t.Siglip2VisionModel(config), "siglip_processor": t.Siglip2ImageProcessor(patch_size=4)}
    return z_image(d.ZImageOmniPipeline, siglip_feat_dim=8, **parts)


def ovis():
    return d.OvisImagePipeline(
        transformer=d.OvisImageTransformer2DModel(
            patch_size=1,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
        vae=vae(),
        scheduler=flow(),
        text_encoder=language_model("Qwen3"),
        tokenizer=chat_tokenizer(512),
    )


def krea2():
    return d.Krea2Pipeline(
        transformer=d.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=32,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=vae_qwen(),
        scheduler=flow(),
        text_encoder=qwen3vl(t.Qwen3VLModel),
        tokenizer=chat_tokenizer(512),
        text_encoder_select_layers=(1, 2),
    )


def nucleus():
    return d.NucleusMoEImagePipeline(
        transformer=d.NucleusMoEImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            mlp_ratio=6.0,
            dense_moe_strategy="leave_first_three_blocks_dense",
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=2.0,
        ),
        vae=vae_qwen(),
        scheduler=flow(),
        text_encoder=qwen3vl(layers=8),
        processor=qwen3vl_processor(512),
    )
