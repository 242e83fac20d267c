"""What the annotators of a round are asked to judge by: ``guidelines.md`` beside the pairs, read at each visit."""

import hashlib
from pathlib import Path

from markdown_it import MarkdownIt

from ..errors import BadInput
from ..files import write_atomically

NAME = "guidelines.md"
MAX_CHARACTERS = 50_000
DEFAULT = """# How to judge

Choose the picture you would rather have been given for this prompt. Trust your first look; most pairs take two seconds.

1. **Does it show what the prompt asks for?** The right things, how many, where, and the words to be written.
2. **Is it well made?** Hands, faces, edges, light; nothing melted, doubled or cut off.
3. **Would you look at it twice?**

- **Both good** when you would be glad of either, **both bad** when neither will do. They are not the same.
- **Much better** when no one could disagree.
- **Skip** what you cannot judge; it comes back at the end.
- **Flag** what should not be in the round at all.

Colour, style or size count only if the prompt asks for them. Nobody is checking on you; a few pairs come twice.
"""
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image"])
"""Raw HTML is shown as text, and nothing is fetched: no pictures."""


def read(folder: Path) -> str:
    """Return the guidelines of the round, or the default ones."""
    try:
        return (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return DEFAULT
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / NAME}: cannot be read ({error}); write it as UTF-8 text") from None


def write(folder: Path, text: str, version: str) -> bool:
    """Replace the guidelines and return whether that was done: not if they are no longer those of ``version``."""
    if version != version_of(read(folder)):
        return False
    write_atomically(folder / NAME, text.replace("\r\n", "\n").encode("utf-8", "replace"))
    return True


def version_of(text: str) -> str:
    """Return what tells this text from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rendered(text: str) -> str:
    """Return Markdown as HTML in which everything that is not Markdown is escaped."""
    return str(MARKDOWN.render(text))
