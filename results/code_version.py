"""The version of the code by which something was computed that is saved."""

import hashlib
import secrets
import time
from functools import lru_cache
from pathlib import Path

from research.files import research_folder

IMPORTED_NS = time.time_ns()
"""When this process imported the code, about."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """A name for the code of these packages, by which what is saved was computed.

    If a file was changed since this process imported it, as by an update while a dashboard runs, the name is one of its own.
    """
    digest, changed = hashlib.blake2b(digest_size=16), 0
    for folder in (Path(__file__).parent, research_folder()):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
            changed = max(changed, file.stat().st_ctime_ns)
    return digest.hexdigest() if changed < IMPORTED_NS else secrets.token_hex(16)
