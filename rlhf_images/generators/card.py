"""The model card of tuned weights, as diffusers and the hub read it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.utils.hub_utils import load_or_create_model_card, populate_model_card

from ..errors import BadInput
from ..files import write_atomically
from .loading import denoiser_of, index_of
from .settings import GeneratorConfig, call_settings


def save_card(folder: Path, text: str, base_model: str, *, lora: bool, gallery: Sequence[tuple[str, str]] = ()) -> Path:
    """Write ``text`` under the hub's own front matter as ``folder/README.md``, and return its path.

    ``gallery`` are prompts with the paths, in ``folder``, of their pictures. What somebody added to the front matter of
    a card that is there, such as a licence, stays.
    """
    path = folder / "README.md"
    if not path.is_file():
        write_atomically(path, b"---\nlibrary_name: diffusers\n---\n")
    card = load_or_create_model_card(str(path), from_training=True)
    data: Any = card.data
    tags = ["text-to-image", "diffusers", "reinforcement-learning", "rlhf-images", *(["lora"] if lora else [])]
    data.tags = [tag for tag in data.tags or [] if tag not in tags]
    populate_model_card(card, tags=tags)
    if not Path(base_model).exists():  # on the hub: a path of this machine says nothing there
        data.base_model = base_model
    data.pipeline_tag = "text-to-image"
    if gallery:
        data.widget = [{"text": prompt, "output": {"url": picture}} for prompt, picture in gallery]
    card.text = text
    write_atomically(path, str(card).encode())
    return path


def usage(config: GeneratorConfig, run: Path, *, lora: bool) -> str:
    """Return Python, as Markdown, that draws with the weights tuned in folder ``run`` as ``config`` does.

    Where the pipeline's configs cannot be read, and so not how it is called, the text says that instead.
    """
    try:
        kind, index = index_of(config.path)
        _, described = denoiser_of(config.path)
        keywords = {"num_inference_steps": config.steps, **call_settings(kind, index, described, config)}
    except BadInput:
        return f"How it is called is not known: `{config.path}` could not be read when this card was written."
    part = "transformer" if index.get("transformer", [None])[0] else "unet"
    needed, put = [], 'pipe.load_lora_weights("this repository")'
    if not lora:
        tuned = f'"this repository", subfolder="{part}", dtype=torch.{config.dtype}'
        put = f"pipe.{part} = type(pipe.{part}).from_pretrained({tuned})"
    elif (run / "adapter_model.safetensors").is_file():
        needed, put = ["from peft import PeftModel"], f'PeftModel.from_pretrained(pipe.{part}, "this repository")'
    lines = [
        "```python",
        "import torch",
        "from diffusers import DiffusionPipeline",
        *needed,
        "",
        f"pipe = DiffusionPipeline.from_pretrained({config.path!r}, dtype=torch.{config.dtype})",
        put,
        f"pipe(prompt, {', '.join(f'{name}={value!r}' for name, value in keywords.items())}).images[0]",
        "```",
    ]
    return "\n".join(lines)
