"""Files and folders: where the package lies."""

from pathlib import Path


def research_folder() -> Path:
    """The folder of the `research` package, which holds train.py."""
    return Path(__file__).resolve().parent
