"""Tiny random pipelines of each family, built offline: a row a family, so that a new one is tested on arrival."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from rlhf_images.generators import GeneratorConfig
from rlhf_images.generators.tiny import TinyConfig, build, word_tokenizer

PROMPTS = ["a red cube", "two green spheres on a table", "fog"]


def text(kind, width=32):
    tokenizer = word_tokenizer(PROMPTS, 16, 400)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=37,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, kind(config)


def vae(channels=4):
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=0.05,
        scaling_factor=0.6,
    )


def unet(**extra):
    return UNet2DConditionModel(
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


def sd15(prediction_type="epsilon", scheduler=PNDMScheduler):
    tokenizer, encoder = text(CLIPTextModel)
    # the scheduler configs of the released checkpoints
    shipped = scheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        steps_offset=1,
        **(
            {"skip_prk_steps": True, "set_alpha_to_one": False}
            if scheduler is PNDMScheduler
            else {"clip_sample": False}
        ),
    )
    return StableDiffusionPipeline(
        unet=unet(),
        vae=vae(),
        scheduler=shipped,
        tokenizer=tokenizer,
        text_encoder=encoder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    tokenizer, encoder = text(CLIPTextModel)
    _, encoder_2 = text(CLIPTextModelWithProjection)
    return StableDiffusionXLPipeline(
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
        ),
        vae=vae(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder=encoder,
        text_encoder_2=encoder_2,
    )


def sd3():
    pipe = build(TinyConfig(layers=2, heads=1, channels=(8, 16), text_tokens=16), 16, PROMPTS, seed=0)
    pipe.vae.register_to_config(shift_factor=0.05, scaling_factor=0.6)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return pipe


def flux():
    tokenizer, encoder = text(CLIPTextModel)
    t5 = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4))
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        vae=vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder=encoder,
        text_encoder_2=t5,
    )


FAMILIES = {
    "SD1.5 epsilon": (sd15, {}),
    "SD1.5 epsilon, guided": (sd15, {"guidance": 5.0}),
    "SD1.5 v, DDIM": (lambda: sd15("v_prediction", DDIMScheduler), {}),
    "SDXL": (sdxl, {}),
    "SDXL guided": (sdxl, {"guidance": 5.0}),
    "SD3": (sd3, {"call": {"max_sequence_length": 16}}),
    "SD3 guided": (sd3, {"guidance": 4.5, "call": {"max_sequence_length": 16}}),
    "FLUX.1": (flux, {"guidance": 3.5, "call": {"max_sequence_length": 16}}),
}


def family(name):
    """The pipeline with weights drawn from one seed, and the config it is called with."""
    make, settings = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = make()
        for component in (getattr(pipe, "transformer", None) or pipe.unet, pipe.vae):
            for parameter in component.parameters():  # no zero-initialised output may hide a wrong input
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    return pipe, GeneratorConfig(path=name, steps=4, height=16, width=16, **settings)
