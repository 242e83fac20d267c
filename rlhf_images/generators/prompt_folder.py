"""A folder of prompt encodings that many runs share.

An entry's name is a hash of all that decides its contents: the text encoders' weights, the tokenizers, the pipeline's
own settings, those of the call, and the prompt. An entry carries a hash of its contents; a damaged one is made anew.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import diffusers
import transformers
from torch import nn

from ..errors import BadInput
from ..files import write_atomically
from ..progress import progress, say
from .encodings import digest, from_bytes, to_bytes


@final
class PromptFolder:
    """The entries of one pipeline in ``folder``, which may hold those of others too."""

    def __init__(self, folder: str, pipe: Any) -> None:
        """Open or make ``folder``. The encoders are hashed when the first entry is asked for."""
        self.folder, self.pipe = Path(folder), pipe
        self._identity = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"generator.prompt_cache: {folder}: cannot be made ({error.strerror})") from None

    def entry(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the encoding at ``key``, from its file, or made and written now."""
        file = self.file(key)
        try:
            return from_bytes(file.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            say(f"{file}: {error}; made anew")
        encoding = make()
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, to_bytes(encoding))
        return encoding

    def file(self, key: str) -> Path:
        """Return where the entry at ``key`` lies."""
        if not self._identity:
            self._identity = identity(self.pipe)
        name = hashlib.sha256(f"{self._identity} {key}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def identity(pipe: Any) -> str:
    """Return a hash of all in ``pipe`` that its prompt encodings depend on."""
    parts = pipe.components.items()
    encoders = [(name, part) for name, part in parts if name.startswith("text_encoder") and part is not None]
    tensors = [(name, key, tensor) for name, part in encoders for key, tensor in part.state_dict().items()]
    facts = [type(pipe).__name__, diffusers.__version__, transformers.__version__, _flags(pipe.config)]
    facts += [f"{name} {_flags(part.config.to_dict())}" for name, part in encoders]
    facts += [f"{name} {key} {digest([tensor])}" for name, key, tensor in progress(tensors, "hash text encoders")]
    others = [(name, part) for name, part in parts if not isinstance(part, nn.Module) and name != "scheduler"]
    facts += [f"{name} {_files(part)}" for name, part in others if hasattr(part, "save_pretrained")]
    return digest(facts)


def _flags(config: Any) -> str:
    """Return a config as text, without where it was loaded from."""
    return json.dumps({k: v for k, v in dict(config).items() if k != "_name_or_path"}, sort_keys=True, default=repr)


def _files(part: Any) -> str:
    """Return a hash of the files that a tokenizer or processor consists of."""
    with tempfile.TemporaryDirectory() as folder:
        part.save_pretrained(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        names = [os.fspath(path.relative_to(folder)) for path in paths]
        return digest([*names, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)])
