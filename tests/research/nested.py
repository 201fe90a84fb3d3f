"""Folders nested more deeply than a path can say."""

import os
from pathlib import Path


def nest(folder: Path, levels: int) -> None:
    """Makes `levels` folders, each in the one before, below `folder`, with a file in the innermost."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("folder", dir_fd=here)
        below = os.open("folder", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
