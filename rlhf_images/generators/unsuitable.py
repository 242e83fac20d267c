"""The text-to-image pipelines of diffusers that cannot be tuned here, each with its reason."""

import inspect
from typing import Any

CONTROLLED = (
    "wants a control picture beside every prompt; tune the plain pipeline of its family: the LoRA works with it too"
)
TWO_STAGES = "runs two diffusion models in turn, a prior and a decoder, under one call; neither can be seen alone"

REASONS = {
    "StableDiffusionControlNetPipeline": CONTROLLED,
    "StableDiffusionControlNetPAGPipeline": CONTROLLED,
    "StableDiffusionXLControlNetPipeline": CONTROLLED,
    "StableDiffusionXLControlNetPAGPipeline": CONTROLLED,
    "StableDiffusionXLControlNetUnionPipeline": CONTROLLED,
    "StableDiffusion3ControlNetPipeline": CONTROLLED,
    "FluxControlPipeline": CONTROLLED,
    "FluxControlNetPipeline": CONTROLLED,
    "CogView4ControlPipeline": CONTROLLED,
    "QwenImageControlNetPipeline": CONTROLLED,
    "ZImageControlNetPipeline": CONTROLLED,
    "ZImageControlNetInpaintPipeline": CONTROLLED,
    "KandinskyCombinedPipeline": TWO_STAGES,
    "KandinskyV22CombinedPipeline": TWO_STAGES,
    "WuerstchenCombinedPipeline": TWO_STAGES,
    "StableCascadeCombinedPipeline": TWO_STAGES,
    "LatentConsistencyModelPipeline": (
        "jumps to the picture and back instead of following a noise path; put the LCM-LoRA on StableDiffusionPipeline"
    ),
    "GlmImagePipeline": "draws new prior tokens from a language model in every call, so no prediction can be repeated",
    "IFPipeline": "is the first of three pixel models and samples by predicted variances and clipping, not by a path",
    "HeliosPipeline": "makes videos, in chunks that depend on one another",
    "HeliosPyramidPipeline": "makes videos, in chunks that depend on one another",
}
"""Class name → why not. Everything else that has diffusers' usual shape is taken as it comes."""


def why_not(kind: Any) -> str | None:
    """Return why pipeline class ``kind`` cannot be tuned, or None."""
    if kind.__name__ in REASONS:
        return REASONS[kind.__name__]
    needed = {name for name in ("encode_prompt", "prepare_latents") if not hasattr(kind, name)}
    needed |= {"prompt", "latents"} - set(inspect.signature(kind.__call__).parameters)
    if needed:
        return f"is not a text-to-image pipeline of diffusers' usual shape: it has no {', '.join(sorted(needed))}"
    if not hasattr(kind.__call__, "__wrapped__"):
        return "cannot be run with gradient: diffusers' own are wrapped in no_grad, which can be taken off"
    return None
