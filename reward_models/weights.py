"""Published weights: where they are, how they are read without pickle's powers, and Hugging Face's CLIP as open_clip's.

A scorer's source, behind its ``@``, is a file or a folder that was downloaded; without one it is asked of the hub's
cache, and downloaded where the hub can be reached.
"""

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf_images.errors import BadInput
from rlhf_images.progress import say

_RENAMED = (
    (r"^(text|vision)_model\.", r"\1."),
    (r"^vision\.", "visual."),
    (r"^(text|visual)\.encoder\.layers\.", r"\1.transformer.resblocks."),
    (r"^text\.(?:embeddings\.)?", ""),
    (r"^visual\.embeddings\.", "visual."),
    (r"^(visual\.)?position_embedding\.weight$", r"\1positional_embedding"),
    (r"^visual\.patch_embedding\.", "visual.conv1."),
    (r"^visual\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^visual\.post_layernorm\.", "visual.ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^visual_projection\.weight$", "visual.proj"),
)
"""Hugging Face's names of a CLIP's weights to open_clip's, each rule in turn."""


def located(source: str | None, names: Sequence[str], repository: str, scorer: str) -> Path:
    """Return the file of ``scorer`` among ``source``: that file, the first of ``names`` in that folder, or the hub's.

    Raises `BadInput` saying what was looked for where.
    """
    if source is None:
        return _of_hub(repository, names, scorer)
    if Path(source).is_file():
        return Path(source)
    found = [Path(source) / name for name in names if (Path(source) / name).is_file()]
    if not found:
        raise BadInput(f"{scorer}@{source}: no {' or '.join(names)} there; they are published at {repository}")
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a pickle that holds nothing but tensors, by name.

    A dictionary inside ``state_dict`` and the prefix ``module.`` of distributed training are taken off. Raises
    `BadInput` for anything else; a pickle that would run code is refused by torch's ``weights_only``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols: what cannot be read is refused below
            pickled = path.suffix != ".safetensors"
            found = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    except Exception as error:  # what is damaged is unpickled into a dozen kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise BadInput(f"{path}: cannot be read as weights alone ({reason})") from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadInput(f"{path}: holds a {type(found).__name__} that is more than named tensors; not weights")
    for name, value in found.items():
        if not value.is_floating_point() and not str(name).endswith("position_ids"):
            raise BadInput(f"{path}: its '{name}' is of {value.dtype}: quantised weights are not read")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def fill(module: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Load ``state`` into ``module``, in its own dtype; raises `BadInput` unless every weight fits."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise BadInput(f"{source}: not the weights of this architecture ({' '.join(lines)[:240]})") from None


def as_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a CLIP's weights under open_clip's names, if they are under Hugging Face's; others as they are."""
    if "text_model.embeddings.token_embedding.weight" not in state:
        return state
    converted: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for original, value in state.items():
        name = original
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        attention = re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if attention:
            joined.setdefault(f"{attention[1]}.attn.in_proj_{attention[3]}", {})[attention[2]] = value
        elif not name.endswith("position_ids"):
            converted[name] = value.T.contiguous() if name in ("text_projection", "visual.proj") else value
    for name, parts in joined.items():
        if parts.keys() != {"q", "k", "v"}:
            raise BadInput(f"weights: of the attention '{name}' there is only {', '.join(sorted(parts))}")
        converted[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return converted


def digest(module: nn.Module) -> str:
    """Return a hash of every weight of ``module``."""
    whole = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def _of_hub(repository: str, names: Sequence[str], scorer: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if not any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        say(f"{scorer}: the hub is asked for {repository}")  # and may not answer for half a minute
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError:
            break  # neither in the cache nor to be had
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError):
            break
    raise BadInput(
        f"{scorer}: its weights are not on this machine and the hub cannot be asked; download {names[0]} of"
        f" {repository} and name the folder that it lies in: {scorer}@path/to/folder"
    )
