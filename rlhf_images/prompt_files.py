"""Files of prompts as the field has them: plain text, JSON, JSON lines, and tables with a column of prompts."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import BadInput

COLUMNS = ("prompt", "prompts", "text", "caption")
"""What a column of prompts is called, the likeliest first; any other whose name begins with ``prompt`` will do."""


def read_prompt_file(source: str) -> list[str]:
    """Return the prompts of a file, in order, as they stand there but for the white space around each.

    By its ending: ``.jsonl``, ``.json``, ``.csv`` (cells may have several lines), ``.tsv`` (quotes are part of the
    text, as in PartiPrompts); anything else is one prompt a line. Raises `BadInput` for one that cannot be read.
    """
    try:
        data = Path(source).read_bytes()
    except (OSError, ValueError):
        raise BadInput(
            f"{source[:200]}: no such prompt file; give a text file with one prompt a line (or .jsonl, .json, .csv,"
            " .tsv), a list, or 'digits'"
        ) from None
    try:
        text = data.decode("utf-8-sig")
        return [prompt.strip() for prompt in READERS.get(Path(source).suffix.lower(), _lines)(text)]
    except UnicodeDecodeError as error:
        raise BadInput(f"{source}: not UTF-8 text ({error})") from None
    except (csv.Error, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{source}: no prompts can be read from it ({' '.join(str(error).split())[:200]})") from None


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def _json_lines(text: str) -> list[str]:
    return _of_rows([json.loads(line) for line in _lines(text) if line.strip()])


def _json(text: str) -> list[str]:
    found = json.loads(text)
    if isinstance(found, dict):
        named = [found[name] for name in COLUMNS if isinstance(found.get(name), list)]
        if not named:
            raise ValueError("an object without a list of prompts")
        found = named[0]
    if not isinstance(found, list):
        raise ValueError("expected a list of prompts, or of objects that have one each")
    return _of_rows(found)


def _csv(text: str) -> list[str]:
    return _of_rows(list(csv.DictReader(io.StringIO(text, newline=""), strict=True)))


def _tsv(text: str) -> list[str]:
    return _of_rows(list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)))


def _of_rows(rows: Sequence[Any]) -> list[str]:
    """Return the prompts of ``rows``: each a prompt itself, or an object that has one under the same name."""
    if all(isinstance(row, str) for row in rows):
        return list(rows)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("neither a prompt nor an object in each place")
    if not rows:
        return []
    names = {str(name).lower(): name for name in reversed(list(rows[0])) if name is not None}
    chosen = [names[name] for name in COLUMNS if name in names]
    chosen += [names[name] for name in names if name.startswith("prompt")][::-1]
    if not chosen:
        raise ValueError(f"no column 'prompt'; it has {', '.join(map(str, rows[0]))[:120]}")
    prompts = [row.get(chosen[0]) for row in rows]
    missing = next((number for number, prompt in enumerate(prompts, 1) if not isinstance(prompt, str)), None)
    if missing is not None:
        raise ValueError(f"row {missing} has no text in '{chosen[0]}'")
    return [prompt for prompt in prompts if isinstance(prompt, str)]


READERS: dict[str, Callable[[str], list[str]]] = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _tsv}
"""By the ending of the file."""
