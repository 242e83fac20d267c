"""Sending a finished export to the Hugging Face hub: a private data set, which its owner can make public there."""

from pathlib import Path

from ...errors import BadInput
from ...progress import say


def push(folder: Path, repository: str) -> None:
    """Upload ``folder`` as data set ``repository`` (``name`` or ``owner/name``), private if it is new.

    The hub is that of ``HF_ENDPOINT``, the token that of ``HF_TOKEN`` or ``hf auth login``.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        created = api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Preferences between pictures",
        )
    except Exception as error:  # the hub's client raises kinds of several libraries; each means: not, or not all, sent
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"{repository}: could not be pushed ({reason}); {folder} is whole: log in with 'hf auth login', then"
            f" 'hf upload {repository} {folder} --repo-type dataset --private'"
        ) from None
    say(f"pushed to {created}; it is private if it is new: its owner can change that on its page")
