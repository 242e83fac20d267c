"""What a config says of a pipeline, as the keywords of that pipeline's own call; nothing here needs its weights."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, final

from ..config import Count
from ..errors import BadInput

Scalar = bool | int | float | str | None

OURS = ("prompt", "latents", "generator", "num_inference_steps", "output_type", "return_dict", "num_images_per_prompt")
"""Keywords of a pipeline's call that the generator gives itself."""

SECTIONED = {
    "guidance_scale": "guidance",
    "true_cfg_scale": "guidance",
    "negative_prompt": "negative_prompt",
    "height": "height",
    "width": "width",
}
"""Keywords of a pipeline's call that have a field of their own in `GeneratorConfig`."""


@final
@dataclass(frozen=True)
class GeneratorConfig:
    """Which pipeline, and how it is called: the same in every stage, so that all sample alike.

    The fields after `call` change where and how it is computed, never what (see docs/pipelines.md).
    """

    path: str
    """A folder written by ``save_pretrained``, or a name on the hub."""
    steps: Count = 28
    """Sampling steps."""
    guidance: float = 1.0
    """Classifier-free guidance w, as in uncond + w·(cond − uncond). 1 is none, at half the cost of any other."""
    negative_prompt: str | None = None
    """What guidance leads away from; null is what the pipeline takes by itself."""
    embedded_guidance: float | None = None
    """What a network that guidance was distilled into takes as an input (FLUX.1-dev: 3.5); null for all others."""
    height: Count | None = None
    """Pixels; the pipeline's own default where not given."""
    width: Count | None = None
    """Pixels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights and the denoiser's arithmetic. Latents and trained LoRA weights stay in float32."""
    call: dict[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)
    """Any other keyword of the pipeline's ``__call__``, such as ``max_sequence_length``."""
    prompt_cache: str | None = None
    """A folder that keeps prompt encodings from run to run; null keeps them in the memory of this one."""
    text_encoders: Literal["keep", "offload", "drop"] = "keep"
    """Keep them on the accelerator, bring them there only to encode, or forget them once a run's prompts are known."""
    offload_vae: bool = False
    """Keep the autoencoder off the accelerator between decodings."""
    recompute_activations: bool = False
    """Activation checkpointing of the denoiser: a third more compute in training for much less memory."""
    compile: str | None = None
    """Backend of ``torch.compile`` for the denoiser's repeated blocks, such as ``inductor``; null compiles nothing."""
    attention: str | None = None
    """Attention backend of diffusers, such as ``flash`` or ``_native_cudnn``; null is torch's own choice."""


def call_settings(
    kind: Any, pipeline: Mapping[str, Any], denoiser: Mapping[str, Any], config: GeneratorConfig
) -> dict[str, Any]:
    """Return ``config`` as keywords of the call of pipeline class ``kind``; refuse those that it does not have.

    ``pipeline`` and ``denoiser`` are the configs of the pipeline and of its denoiser.
    """
    known = inspect.signature(kind.__call__).parameters
    sizes = {name: value for name, value in (("height", config.height), ("width", config.width)) if value is not None}
    for name in (*config.call, *sizes):
        if name in config.call and name in SECTIONED:
            raise BadInput(f"generator.call: '{name}' has a place of its own; use 'generator.{SECTIONED[name]}'")
        if name not in known or name in OURS:
            near = difflib.get_close_matches(name, set(known) - {*OURS, *SECTIONED}, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise BadInput(f"generator.call: {kind.__name__} takes no setting '{name}'{hint}")
    return {
        **_guidance(kind, set(known), pipeline, denoiser, config),
        **_negative(set(known), config),
        **sizes,
        **config.call,
    }


def _guidance(
    kind: Any, known: set[str], pipeline: Mapping[str, Any], denoiser: Mapping[str, Any], config: GeneratorConfig
) -> dict[str, Any]:
    """Return the strength of guidance, by the names and in the units that this pipeline has for it."""
    embeds = bool(denoiser.get("guidance_embeds")) or denoiser.get("time_cond_proj_dim") is not None
    if embeds and config.embedded_guidance is None:
        raise BadInput(
            f"{config.path}: guidance was distilled into this network, which takes it as an input; set "
            "'generator.embedded_guidance', such as 3.5 for FLUX.1-dev"
        )
    if not embeds and config.embedded_guidance is not None:
        raise BadInput(f"generator.embedded_guidance: {kind.__name__} with this network takes none; remove it")
    settings = {"guidance_scale": config.embedded_guidance} if embeds else {}
    if "true_cfg_scale" in known:
        return {**settings, "true_cfg_scale": config.guidance}
    if "guidance_scale" in known and not embeds:
        none = _scale_of_none(kind, pipeline, denoiser)
        if none is None and config.guidance != 1:
            raise BadInput(f"generator.guidance: {config.path} is distilled and cannot be guided; set it to 1")
        return {"guidance_scale": config.guidance - 1 + (1.0 if none is None else none)}
    if config.guidance != 1:
        raise BadInput(f"generator.guidance: {kind.__name__} with this network cannot be guided; set it to 1")
    return settings


def _negative(known: set[str], config: GeneratorConfig) -> dict[str, Any]:
    """Return the negative prompt; a pipeline with ``true_cfg_scale`` is only guided if it has one."""
    if config.guidance == 1:
        if config.negative_prompt is not None:
            raise BadInput("generator.negative_prompt: without guidance it has no effect; set 'generator.guidance'")
        return {}
    if config.negative_prompt is not None and "negative_prompt" not in known:
        raise BadInput("generator.negative_prompt: this pipeline takes none; remove it")
    if config.negative_prompt is None and "true_cfg_scale" not in known:
        return {}
    return {"negative_prompt": " " if config.negative_prompt is None else config.negative_prompt}


def _scale_of_none(kind: Any, pipeline: Mapping[str, Any], denoiser: Mapping[str, Any]) -> float | None:
    """Return the pipeline's own number for no guidance, 1 or (Z-Image, Krea 2) 0; None where none can be had.

    Asked of its ``do_classifier_free_guidance``, on a stand-in that has the configs and no weights.
    """
    guided = getattr(kind, "do_classifier_free_guidance", None)
    if not isinstance(guided, property) or guided.fget is None:
        return 1.0
    network = SimpleNamespace(config=SimpleNamespace(**{"time_cond_proj_dim": None, **denoiser}))
    names = {"config": SimpleNamespace(**pipeline), "unet": network, "transformer": network}
    answers = {scale: guided.fget(SimpleNamespace(_guidance_scale=scale, **names)) for scale in (0.0, 1.0, 2.0)}
    if not answers[2.0]:
        return None
    return 0.0 if answers[1.0] else 1.0
