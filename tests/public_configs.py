"""The published configs of known pipelines, without weights or tokenizers: what `plan` needs of them, and no more."""

import json
from pathlib import Path

CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
}
CLIP_G = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
T5_XXL = {
    "model_type": "t5",
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
}
VAE_16 = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06}
SCALED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
TOKENIZERS = {
    "CLIPTextModel": "CLIPTokenizer",
    "CLIPTextModelWithProjection": "CLIPTokenizer",
    "T5EncoderModel": "T5Tokenizer",
}

PUBLISHED = {
    "stable-diffusion-1.5": {
        "class": "StableDiffusionPipeline",
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 64,
            "block_out_channels": [320, 640, 1280, 1280],
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
            "layers_per_block": 2,
        },
        "vae": VAE,
        "scheduler": {"_class_name": "DDIMScheduler", **SCALED},
        "encoders": {"text_encoder": ("CLIPTextModel", CLIP_L)},
    },
    "stable-diffusion-xl-base-1.0": {
        "class": "StableDiffusionXLPipeline",
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "layers_per_block": 2,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": VAE,
        "scheduler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **SCALED},
        "encoders": {
            "text_encoder": ("CLIPTextModel", CLIP_L),
            "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
        },
    },
    "stable-diffusion-3.5-medium": {
        "class": "StableDiffusion3Pipeline",
        "transformer": {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "dual_attention_layers": list(range(13)),
        },
        "vae": VAE_16,
        "scheduler": FLOW,
        "encoders": {
            "text_encoder": ("CLIPTextModelWithProjection", CLIP_L),
            "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
            "text_encoder_3": ("T5EncoderModel", T5_XXL),
        },
    },
    "flux.1-dev": {
        "class": "FluxPipeline",
        "transformer": {
            "_class_name": "FluxTransformer2DModel",
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        "vae": VAE_16,
        "scheduler": {**FLOW, "use_dynamic_shifting": True},
        "encoders": {"text_encoder": ("CLIPTextModel", CLIP_L), "text_encoder_2": ("T5EncoderModel", T5_XXL)},
    },
}


def write(name: str, folder: Path) -> Path:
    """Write the configs of pipeline ``name`` as a folder that holds nothing else."""
    published = PUBLISHED[name]
    index: dict[str, object] = {"_class_name": published["class"], "_diffusers_version": "0.36.0"}
    for part in ("unet", "transformer", "vae", "scheduler"):
        if part in published:
            index[part] = ["diffusers", published[part]["_class_name"]]
            _write(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), published[part])
    for part, (kind, config) in published["encoders"].items():
        index[part] = ["transformers", kind]
        index[part.replace("text_encoder", "tokenizer")] = ["transformers", TOKENIZERS[kind]]
        _write(folder / part / "config.json", config)
    _write(folder / "model_index.json", index)
    return folder


def _write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
