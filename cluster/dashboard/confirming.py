"""Starts `farm confirm` for a dashboard with `--control`: a process of its own, which takes the home and its devices.

It goes on if the dashboard ends, is stopped by `farm stop`, and resumes by the same request if it was cut off.
"""

import subprocess
import threading
from pathlib import Path

from cluster.command_parser import DEFAULT_SEEDS
from cluster.home import Home, home_option
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import one_line
from research.start_apart import start_apart

FIRST_SECONDS = 8.0
"""How long a request waits for a confirmation that can't begin to say so."""


def start_confirmation(home: Home, experiment: str, *, wait_s: float = FIRST_SECONDS) -> str:
    """Starts the confirmation of an experiment. Returns what follows; raises UserError if a farm runs, or it can't begin."""
    stop = to_type(f"farm stop{home_option(home)}")
    if (holder := home.holder()) is not None:
        raise UserError(f"A farm has the devices of this home ({holder}): stop it first ({stop}), and confirm then.")
    home.create()
    log = log_of(home)
    with log.open("wb") as output:
        words = ("confirm", experiment, "--home", str(home.folder))
        confirming = start_apart("cluster.cli", *words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        confirming.wait(wait_s)
    except subprocess.TimeoutExpired:
        threading.Thread(target=confirming.wait, name="confirming", daemon=True).start()
    else:
        if confirming.returncode == 2:
            raise UserError(one_line(_last_line(log).removeprefix("farm: "), 400))
    return f"{experiment} and its baseline run under {DEFAULT_SEEDS} fresh seeds: {stop} ends it, {log} says how it goes"


def log_of(home: Home) -> Path:
    """What the last confirmation that a dashboard has started printed."""
    return home.logs / "confirm.log"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "farm confirm could not begin"
