"""Tiny random pipelines of each family, built offline: a row a family, so that a new one is tested on arrival.

``ours`` are fields of `GeneratorConfig`, ``theirs`` the keywords by which the plain pipeline is called to the same end.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers as d
import dits
import mmdits
import torch
import unets
from parts import PROMPTS

from rlhf_images.generators import GeneratorConfig

__all__ = ["FAMILIES", "PROMPTS", "TARGETS", "family", "full", "plain_call"]


@dataclass(frozen=True)
class Family:
    make: Callable[[], Any]
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    side: int = 16
    steps: int = 3
    full: bool = True
    """Whether the whole contract is tested, or only what this way of guidance could break."""


def guided(scale=3.0, name="guidance_scale", **theirs):
    return {"ours": {"guidance": scale}, "theirs": {name: scale, **theirs}, "full": False}


def off(name="guidance_scale", value=1.0):
    return {"theirs": {name: value}}


def true_cfg(scale=3.0, **theirs):
    return guided(scale, "true_cfg_scale", negative_prompt=" ", **theirs)


SHORT = {"max_sequence_length": 16}
LONG = {"max_sequence_length": 64}
LAYERS = {"max_sequence_length": 64, "text_encoder_out_layers": (0, 1, 2)}
BINNED = {"use_resolution_binning": False, "clean_caption": False, **SHORT}
PAG = {"pag_scale": 2.0}
KONTEXT = {"max_area": 256, "_auto_resize": False, **SHORT}
IDEOGRAM = {"max_sequence_length": 32, "guidance_schedule": None}
EMBEDDED = {"ours": {"embedded_guidance": 3.5}, "theirs": {"guidance_scale": 3.5}}

FAMILIES = {
    "SD1.5": Family(unets.sd15, **off()),
    "SD1.5 guided": Family(unets.sd15, **{**guided(), "full": True}),
    "SD1.5 v, DDIM": Family(unets.sd21_v, **off(), steps=4),
    "SD1.5 PAG": Family(lambda: unets.sd15(d.StableDiffusionPAGPipeline), **guided(), call=PAG),
    "SDXL": Family(unets.sdxl, **off()),
    "SDXL guided": Family(unets.sdxl, **guided()),
    "SDXL PAG": Family(lambda: unets.sdxl(d.StableDiffusionXLPAGPipeline), **guided(), call=PAG),
    "Kolors": Family(unets.kolors, **off()),
    "Kolors guided": Family(unets.kolors, **guided()),
    "Kolors PAG": Family(lambda: unets.kolors(d.KolorsPAGPipeline), **guided(), call=PAG),
    "Kandinsky 3": Family(unets.kandinsky3, **off(), side=64),
    "PixArt-alpha": Family(lambda: dits.pixart(d.PixArtAlphaPipeline), **off(), call=BINNED),
    "PixArt-Sigma": Family(dits.pixart, **off(), call=BINNED),
    "PixArt-Sigma guided": Family(dits.pixart, **guided(), call=BINNED),
    "PixArt-Sigma PAG": Family(lambda: dits.pixart(d.PixArtSigmaPAGPipeline), **guided(), call={**BINNED, **PAG}),
    "Sana": Family(dits.sana, **off(), call=BINNED, side=32),
    "Sana guided": Family(dits.sana, **guided(), call=BINNED, side=32),
    "Sana PAG": Family(lambda: dits.sana(d.SanaPAGPipeline), **guided(), call={**BINNED, **PAG}, side=32),
    "Hunyuan-DiT": Family(dits.hunyuan, **off(), call={"use_resolution_binning": False}),
    "Hunyuan-DiT guided": Family(dits.hunyuan, **guided(), call={"use_resolution_binning": False}),
    "Hunyuan-DiT PAG": Family(
        lambda: dits.hunyuan(d.HunyuanDiTPAGPipeline), **guided(), call={"use_resolution_binning": False, **PAG}
    ),
    "Lumina": Family(dits.lumina, **off(), call={"clean_caption": False}, side=32),
    "Lumina guided": Family(dits.lumina, **guided(), call={"clean_caption": False}, side=32),
    "PRX": Family(dits.prx, **off(), call={"use_resolution_binning": False}),
    "SD3": Family(mmdits.sd3, **off(), call=SHORT, steps=4),
    "SD3 guided": Family(mmdits.sd3, **{**guided(), "full": True}, call=SHORT),
    "SD3 PAG": Family(
        lambda: mmdits.sd3(d.StableDiffusion3PAGPipeline, pag_applied_layers="transformer_blocks.0"),
        **guided(),
        call={**SHORT, **PAG},
    ),
    "FLUX.1": Family(mmdits.flux, **EMBEDDED, call=SHORT),
    "FLUX.1 guided": Family(
        mmdits.flux,
        **{**true_cfg(guidance_scale=3.5), "ours": {"guidance": 3.0, "embedded_guidance": 3.5}},
        call=SHORT,
    ),
    "FLUX.1 schnell": Family(mmdits.flux_schnell, call=SHORT, full=False),
    "FLUX.1 Kontext": Family(mmdits.flux_kontext, **EMBEDDED, call=KONTEXT),
    "FLUX.2": Family(mmdits.flux2, **EMBEDDED, call=LAYERS),
    "FLUX.2-klein": Family(mmdits.flux2_klein, **off(), call=LAYERS),
    "FLUX.2-klein guided": Family(mmdits.flux2_klein, **guided(), call=LAYERS),
    "FLUX.2-klein distilled": Family(lambda: mmdits.flux2_klein(is_distilled=True), **off(), call=LAYERS, full=False),
    "Chroma": Family(mmdits.chroma, **off(), call=SHORT),
    "Chroma guided": Family(mmdits.chroma, **guided(), call=SHORT),
    "AuraFlow": Family(mmdits.auraflow, **off(), call=SHORT),
    "AuraFlow guided": Family(mmdits.auraflow, **guided(), call=SHORT),
    "CogView3+": Family(mmdits.cogview3, **off(), call=SHORT, steps=4),
    "CogView3+ guided": Family(mmdits.cogview3, **guided(), call=SHORT, steps=4),
    "CogView4": Family(mmdits.cogview4, **off(), call=SHORT),
    "CogView4 guided": Family(mmdits.cogview4, **guided(), call=SHORT),
    "Lumina 2": Family(mmdits.lumina2, **off(), call=LONG, side=32),
    "Lumina 2 guided": Family(mmdits.lumina2, **guided(), call=LONG, side=32),
    "Qwen-Image": Family(mmdits.qwen_image, **off("true_cfg_scale"), call=LONG),
    "Qwen-Image guided": Family(mmdits.qwen_image, **true_cfg(), call=LONG),
    "Qwen-Image 2.1": Family(mmdits.qwen_image21, **off("true_cfg_scale"), side=64),
    "Qwen-Image 2.1 guided": Family(mmdits.qwen_image21, **true_cfg(), side=64),
    "Z-Image": Family(mmdits.z_image, **off(value=0.0), call=LONG),
    "Z-Image guided": Family(mmdits.z_image, **{**guided(), "theirs": {"guidance_scale": 2.0}}, call=LONG),
    "Z-Image Omni": Family(mmdits.z_image_omni, **off(value=0.0), call=LONG),
    "Ovis-Image": Family(mmdits.ovis, **off(), call=SHORT),
    "Ovis-Image guided": Family(mmdits.ovis, **guided(), call=SHORT),
    "Krea 2": Family(mmdits.krea2, **off(value=0.0), call=LONG),
    "Krea 2 guided": Family(mmdits.krea2, **{**guided(), "theirs": {"guidance_scale": 2.0}}, call=LONG),
    "Nucleus-Image": Family(mmdits.nucleus, **off(), call=LONG),
    "Nucleus-Image guided": Family(mmdits.nucleus, **guided(), call=LONG),
    "Ideogram 4": Family(mmdits.ideogram4, **off(), call=IDEOGRAM),
    "Ideogram 4 guided": Family(mmdits.ideogram4, **guided(), call=IDEOGRAM),
}

TARGETS = {"PRX": ["img_qkv_proj", "txt_kv_proj"]}
"""Where a family has other names for its attention than LoRA's default ones."""


def full():
    return [name for name, row in FAMILIES.items() if row.full]


def family(name):
    """The pipeline with weights drawn from one seed, and the config it is called with."""
    row = FAMILIES[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and transformers say to their own authors
        torch.manual_seed(0)
        pipe = row.make()
        vae = getattr(pipe, "vae", None) or pipe.movq
        for component in (getattr(pipe, "transformer", None) or pipe.unet, vae):
            for parameter in component.parameters():  # no zero-initialised output may hide a wrong input
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe, GeneratorConfig(path=name, steps=row.steps, height=row.side, width=row.side, call=row.call, **row.ours)


def plain_call(pipe, name, generators, prompts):
    """Pictures of the plain pipeline along the ODE, with a solver of diffusers' own, of first order."""
    row = FAMILIES[name]
    config = {key: value for key, value in pipe.scheduler.config.items() if key != "_use_default_values"}
    if isinstance(pipe.scheduler, d.DPMSolverMultistepScheduler):
        pipe.scheduler = d.DPMSolverMultistepScheduler.from_config(config, solver_order=1)
    elif not isinstance(pipe.scheduler, d.FlowMatchEulerDiscreteScheduler | d.CogVideoXDDIMScheduler):
        pipe.scheduler = d.DDIMScheduler.from_config(config, clip_sample=False)
    settings = {**row.call, **row.theirs, "height": row.side, "width": row.side, "num_inference_steps": row.steps}
    return pipe(prompt=list(prompts), generator=generators, output_type="pt", **settings).images
