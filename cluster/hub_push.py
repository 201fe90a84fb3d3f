"""Uploads an exported folder as a dataset of the Hugging Face hub, by the hub's own client."""

import re
from pathlib import Path

from cluster.export_folder import files_in
from research.errors import UserError
from research.formatting import one_line

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_name(repo: str) -> None:
    """Raises UserError for what can't be the name of a dataset."""
    if not _NAME.fullmatch(repo):
        raise UserError(f"--push {one_line(repo, 80)}: a dataset is named OWNER/NAME, such as me/my-farm.")


def push(folder: Path, repo: str) -> str:
    """Uploads the farm's own files of a folder, in one commit, and returns the dataset's address. A new dataset is private.

    Raises UserError, one line, for whatever the client raises: which exceptions those are depends on its version.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        made = api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=files_in(folder),
            commit_message="The history of a farm",
        )
        return str(made)
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0][:160]
        raise UserError(
            f"{repo} can't be pushed ({type(error).__name__}: {why}): `hf auth login` or $HF_TOKEN says who you are; {folder} "
            "is complete, and the same command tries again."
        ) from error
