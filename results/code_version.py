"""The version of the code by which something was computed that is saved."""

import hashlib
from functools import lru_cache
from pathlib import Path

from research.files import research_folder


@lru_cache(maxsize=1)
def code_version() -> str:
    """A name for the code of these packages, by which what is saved was computed."""
    digest = hashlib.blake2b(digest_size=16)
    for folder in (Path(__file__).parent, research_folder()):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
