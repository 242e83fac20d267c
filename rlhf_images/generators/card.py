"""The model card of tuned weights, as diffusers and the hub read it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.utils.hub_utils import load_or_create_model_card, populate_model_card

from ..files import write_atomically


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
