"""`farm pack`, `farm unpack`: a farm on one machine after another."""

import argparse
from pathlib import Path

from cluster.home import find_home, git_checkout
from cluster.packed_home import packed_line, take_packed, unpacked_lines, write_packed


def pack(options: argparse.Namespace) -> int:
    """Writes a home and its branches to one file."""
    home, file = find_home(options.home), Path(options.file)
    print(packed_line(home, file, write_packed(home, file, runs=not options.without_runs, since=options.since)))
    return 0


def unpack(options: argparse.Namespace) -> int:
    """Puts a packed home and its branches into this checkout."""
    checkout, target = git_checkout(), find_home(options.home)
    for line in unpacked_lines(take_packed(Path(options.file), checkout, target), target):
        print(line)
    return 0
