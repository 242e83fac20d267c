"""The model card of a finetune run: what it is, whether it got better, its pictures, and how to use it."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .config import build
from .data import FORMATS
from .errors import BadInput
from .files import write_atomically
from .generators import GeneratorConfig
from .generators.card import save_card, usage
from .hub import push
from .report import Content, Shot, report
from .report.gallery import FILES as PICTURES
from .report.gallery import gallery
from .report.of_run import content_of, find_run
from .report.scores import Change
from .report.verdict import verdict
from .report.words import number, signed

FOLDER = "gallery"
"""The card's pictures, in the run's folder."""
EACH = 2
"""Rows of the card's gallery of each of best, median and worst."""
SIDE = 256
"""Pixels to which a smaller picture is enlarged, as far as whole pixels go."""
SENT = (
    "README.md",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
    "transformer/*",
    "unet/*",
    "best/*",
    f"{FOLDER}/*",
    "report.html",
    f"{PICTURES}/*",
)
"""What of a run's folder goes to the hub; its checkpoints and evaluations stay."""
SAID = {"`": "'", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in "\\*_[]|#"}}
"""What Markdown would take for a mark of its own, and how it is written instead."""


def model_card(folder: Path) -> Path:
    """Write the model card of the finished run at or in ``folder`` into the run's folder; return its path."""
    run, record = find_run(folder)
    if record["stage"] != "finetune" or not record["finished"]:
        raise BadInput(f"{run}: a model card is of a finetune run that has finished")
    content, config = content_of(run), record["config"]
    pictures = _pictures(run, content)
    lora, generator = config["lora"] is not None, build(GeneratorConfig, config["generator"], f"{run}/run.json")
    text = _text(content, Path(config["out"]).name, usage(generator, run, lora=lora), pictures)
    return save_card(run, text, generator.path, lora=lora, gallery=pictures)


def push_model(folder: Path, repository: str, *, public: bool = False) -> None:
    """Write the page and the model card of a run, and send them and its weights to the hub."""
    card = model_card(folder)
    report(card.parent)
    push(card.parent, repository, "model", "Tuned weights", public=public, files=SENT)


def _pictures(run: Path, content: Content) -> list[tuple[str, str]]:
    """Write the card's gallery and return each prompt with the path of its picture: the base left, tuned right."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    found = gallery(content)
    if found is None:
        return []
    shots = {(shot.prompt, shot.seed): shot for shot in content.shots}
    cards = [card for group in found.groups[:3] for card in group.cards[:EACH]]
    (run / FOLDER).mkdir()
    written = []
    for place, card in enumerate(cards):
        name = f"{FOLDER}/{place:02d}.webp"
        write_atomically(run / name, _beside(shots[card.prompt, card.seed]))
        written.append((card.prompt, name))
    return written


def _beside(shot: Shot) -> bytes:
    """Return the first and the last picture of a row side by side, tiny ones enlarged pixel by pixel."""
    whole = None
    for place, data in enumerate((shot.pictures[0], shot.pictures[-1])):
        picture = Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
        scale = max(1, SIDE // picture.width)
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        whole = whole or Image.new("RGB", (2 * picture.width, picture.height))
        whole.paste(picture, (place * picture.width, 0))
    assert whole is not None
    buffer = io.BytesIO()
    whole.save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


def _text(content: Content, name: str, use: str, pictures: Sequence[tuple[str, str]]) -> str:
    found = verdict(content)
    lines = [f"# {_plain(name)}", f"**{found.headline}.** {_plain(found.sentence)}"]
    lines += [_plain(text) for text in (found.also, found.best, found.told, found.tests) if text]
    if not found.human:
        lines.append("No person has compared it with the base yet: the judge is a program.")
    lines += [f"- **{notice.kind.capitalize()}:** {_plain(notice.text)}" for notice in found.notices]
    lines += [_plain(found.checked), "## Numbers", _table(found.changes, found.names)]
    if pictures:
        lines.append("## Pictures")
        lines.append("The base on the left, tuned on the right, by the same prompt and seed: best, median and worst.")
        lines += [f"![{_plain(prompt)}]({name})" for prompt, name in pictures]
    lines += ["## Use", use, "`report.html` has every number, and the pictures of every checkpoint."]
    return "\n\n".join(lines) + "\n"


def _table(changes: Sequence[Change], names: tuple[str, str]) -> str:
    rows = [f"| | {_plain(names[0])} | {_plain(names[1])} | change | 95 % interval |", "|---|---|---|---|---|"]
    for change in changes:
        d = change.decimals
        known = change.low is not None and change.high is not None
        interval = f"{signed(change.low, d)} to {signed(change.high, d)}" if known else "–"
        cells = (number(change.base, d), number(change.tuned, d), signed(change.difference, d), interval)
        rows.append(f"| {_plain(change.name)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _plain(text: str) -> str:
    """Return ``text`` on one line, as Markdown shows it and nothing else."""
    return "".join(SAID.get(letter, letter) for letter in " ".join(text.split()))
