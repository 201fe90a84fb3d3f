"""Draws the pictures of branches: here, or in a process of its own with low priority, whose failure ends no farm."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from research.files import research_folder
from research.formatting import one_line
from research.streams import own_output
from results.plot import Picture, write_progress_png

LOOK_SECONDS = 0.3
"""How often the process looks whether the farm still lives."""

LONGEST_SECONDS = 600.0
"""How long the process may take for all pictures."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What became of one picture."""

    aside: Path | None = None
    """Where a person's picture is now that was in the way."""
    problem: str = ""
    """Why it could not be drawn, in one line; empty if it was."""


def draw_here(pictures: Sequence[tuple[Path, Picture]]) -> list[Drawn]:
    """Draws pictures to these paths in this process."""
    return [_drawn(path, picture) for path, picture in pictures]


def draw_apart(pictures: Sequence[tuple[Path, Picture]]) -> list[Drawn]:
    """Draws pictures to these paths in a process of its own."""
    try:
        done = subprocess.run([sys.executable, "-m", "results.drawing", str(os.getpid())], input=pickle.dumps(list(pictures)),
                              cwd=research_folder().parent, check=True, capture_output=True, timeout=LONGEST_SECONDS,
                              start_new_session=True)  # fmt: skip
        found: list[Drawn] = pickle.loads(done.stdout)
        return found
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        return [Drawn(problem=one_line(said[-1] if said else f"its process ended with {error.returncode}"))] * len(pictures)
    except (OSError, subprocess.SubprocessError, pickle.UnpicklingError, EOFError) as error:
        return [Drawn(problem=one_line(str(error)) or type(error).__name__)] * len(pictures)


def _drawn(path: Path, picture: Picture) -> Drawn:
    try:
        return Drawn(aside=write_progress_png(path, picture))
    except Exception as error:  # matplotlib raises many kinds, and a picture is only a view
        return Drawn(problem=reason_of(error))


def reason_of(error: Exception) -> str:
    """Why a file can't be written, in one line, which is the same each time: an error's text may name a temporary file."""
    return (isinstance(error, OSError) and error.strerror) or one_line(str(error)) or type(error).__name__


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def main() -> int:
    """Reads pickled pictures from standard input, draws them, and writes what became of each to standard output."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    os.nice(10)  # runs on this machine are scored by the clock
    answers = os.fdopen(own_output(), "wb")
    drawn = draw_here(pickle.load(sys.stdin.buffer))
    answers.write(pickle.dumps(drawn))
    answers.close()
    return 0


if __name__ == "__main__":
    from results import drawing  # so that both processes know the classes by one name

    sys.exit(drawing.main())
