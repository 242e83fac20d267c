"""Writes the table of docs/pipelines.md: ``python tests/generators/pipelines_page.py`` (with ``tests`` on the path)."""

import inspect
import warnings
from pathlib import Path

import diffusers
from diffusers.loaders.peft import PeftAdapterMixin
from families import FAMILIES, PROMPTS, family

from rlhf_images.generators import Generator
from rlhf_images.generators.unsuitable import REASONS, why_not

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
BEGIN, END = "<!-- table:begin -->\n", "<!-- table:end -->\n"


def classes() -> list[str]:
    """Return the names of diffusers' text-to-image pipelines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its modules say of torch when they are first imported
        from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    return sorted(kind.__name__ for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values())


def table() -> str:
    """Return the table: a row a class of diffusers' auto-pipeline table."""
    rows = _tested()
    lines = [
        "| pipeline | works | guidance | `load_lora_weights` | prompts of different lengths |",
        "|---|---|---|---|---|",
    ]
    for name in classes():
        if name in REASONS:
            lines.append(f"| `{name}` | no: it {REASONS[name]} | | | |")
        elif name in rows:
            lines.append(f"| `{name}` | {rows[name]} |")
        else:
            reason = why_not(getattr(diffusers, name))
            lines.append(f"| `{name}` | not tested{f': {reason}' if reason else ''} | | | |")
    return "\n".join(lines) + "\n"


def _tested() -> dict[str, str]:
    """Return the rows of the pipelines that have a tiny one in the table of families, by class."""
    found: dict[str, list[str]] = {}
    facts: dict[str, str] = {}
    for row in FAMILIES:
        pipe, config = family(row)
        name = type(pipe).__name__
        found.setdefault(name, []).append(row)
        if name not in facts:
            facts[name] = f"{_guidance(pipe)} | {_lora(pipe)} | {_lengths(pipe, config)}"
    return {name: f"yes: {', '.join(rows)} | {facts[name]}" for name, rows in found.items()}


def _guidance(pipe) -> str:
    known = inspect.signature(type(pipe).__call__).parameters
    network = getattr(pipe, "transformer", None) or pipe.unet
    kinds = ["an input of the network"] if network.config.get("guidance_embeds") else []
    if "true_cfg_scale" in known:
        kinds.append("two passes, with a negative prompt")
    elif "guidance_scale" in known and not kinds:
        kinds.append("two passes")
    return " or ".join(kinds) or "none"


def _lora(pipe) -> str:
    network = getattr(pipe, "transformer", None) or pipe.unet
    if isinstance(network, PeftAdapterMixin) and hasattr(pipe, "save_lora_weights"):
        return "yes"
    return "no: `PeftModel.from_pretrained`"


def _lengths(pipe, config) -> str:
    """Ask a generator, as it asks itself: two prompts of 3 and 6 words."""
    generator = Generator(pipe, config)
    generator.encode_prompts(PROMPTS[:2])
    paddings = generator.pipe.encode_prompt.paddings.values()
    if not paddings:
        return "have one length, or are lists"
    return "run apart" if None in paddings else "are joined, padded as the pipeline pads"


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = PAGE.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        PAGE.write_text(before + table() + after, encoding="utf-8")
