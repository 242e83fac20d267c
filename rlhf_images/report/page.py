"""The page: its sections in order, its one file, and what keeps it from reaching out."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..files import write_atomically
from . import words
from .alarmed import alarmed
from .content import Content
from .curves import curves
from .details import diversity, reproduction, reward_model
from .distributions import distributions
from .gallery import FILES, gallery
from .generators import generators
from .verdict import verdict

SECTIONS: dict[str, tuple[str, Callable[[Content], Any]]] = {
    "verdict": ("Verdict", verdict),
    "generators": ("Generators", generators),
    "alarms": ("Alarms", alarmed),
    "gallery": ("Gallery", gallery),
    "curves": ("Curves", curves),
    "distributions": ("Distributions", distributions),
    "diversity": ("Diversity", diversity),
    "reward_model": ("Reward model", reward_model),
    "reproduction": ("Reproduction", reproduction),
}
"""Id (also the template's name) → heading and the function that makes the template's ``view``."""
HIDDEN = ("generators",)
"""Sections that are left out where there is nothing to show."""


def write_report(path: Path, content: Content) -> None:
    """Write ``content`` as one HTML file, with its pictures beside it if they are many. Same content, same bytes."""
    views = {name: view(content) for name, (_, view) in SECTIONS.items()}
    pictures = path.parent / FILES
    files = views["gallery"].files if views["gallery"] is not None else {}
    if files:
        pictures.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            if not (pictures / name).is_file():  # named by their content
                write_atomically(pictures / name, data, sync=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _page(content, views).encode("utf-8", "replace"))
    for old in pictures.glob("*") if pictures.is_dir() else ():
        if old.name not in files:
            old.unlink()
    if pictures.is_dir() and not files:
        pictures.rmdir()


def page(content: Content) -> str:
    """Return the HTML of the report on ``content``. Everything that is not ours is escaped."""
    return _page(content, {name: view(content) for name, (_, view) in SECTIONS.items()})


def environment() -> Environment:
    """Return the templates, with the words for numbers. Everything that is not ours is escaped."""
    found = Environment(
        loader=PackageLoader("rlhf_images.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (words.number, words.signed, words.percent, words.percent_range, words.duration)
    found.filters |= {function.__name__: function for function in shown}
    return found


def source(templates: Environment, name: str) -> str:
    """Return a template as it stands: a style or a script."""
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def _page(content: Content, views: dict[str, Any]) -> str:
    templates = environment()
    script = "".join(source(templates, name) for name in ("page.js", "gallery.js"))
    style = "".join(source(templates, name) for name in ("page.css", "gallery.css"))
    return templates.get_template("page.html").render(
        title=content.title,
        names=content.names,
        unfinished=content.unfinished,
        beside=bool(views["gallery"] is not None and views["gallery"].files),
        sections=[
            (name, heading, views[name]) for name, (heading, _) in SECTIONS.items() if name not in HIDDEN or views[name]
        ],
        script=Markup(script),
        style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
