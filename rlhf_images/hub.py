"""Sending a finished folder to the Hugging Face hub: private, unless its owner asks for more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .errors import BadInput
from .progress import say


def push(
    folder: Path,
    repository: str,
    kind: Literal["dataset", "model"],
    message: str,
    *,
    public: bool = False,
    files: Sequence[str] | None = None,
) -> None:
    """Upload ``folder``, or only its ``files`` (patterns), as ``repository`` (``name`` or ``owner/name``).

    One that is new is private unless ``public``; one that is there stays as it is. The hub is that of ``HF_ENDPOINT``,
    the token that of ``HF_TOKEN`` or ``hf auth login``.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        created = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            allow_patterns=None if files is None else list(files),
        )
    except Exception as error:  # the hub's client raises kinds of several libraries; each means: not, or not all, sent
        reason = " ".join(str(error).split())[:300]
        only = "".join(f" --include '{pattern}'" for pattern in files or ())
        how = "" if public else " --private"
        raise BadInput(
            f"{repository}: could not be pushed ({reason}); {folder} is whole: log in with 'hf auth login', then"
            f" 'hf upload {repository} {folder} --repo-type {kind}{only}{how}'"
        ) from None
    seen = "public" if public else "private"
    say(f"pushed to {created}; it is {seen} if it is new: its owner can change that on its page")
