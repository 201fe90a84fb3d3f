"""Where the command `farm` starts: it notices another package that Python would import in place of one of the farm's own."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

OWN = ("research", "results", "agent")
"""The packages that `cluster` imports."""


def main() -> int:
    """Runs the command `farm`, once it is sure that its own packages are imported. Returns the exit status."""
    kept = signal.getsignal(signal.SIGINT)
    if kept is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop_at_once)
    require_own_packages(Path(__file__).parent.parent)
    from cluster.cli import main as farm  # imports those packages

    signal.signal(signal.SIGINT, kept)
    return farm()


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    """Ends this process while it imports: Python loses a KeyboardInterrupt that is raised in a callback of an import's lock."""
    os.write(2, b"farm: stopped\n")
    os._exit(130)


def require_own_packages(folder: Path) -> None:
    """Ends this process with one line if another package has the name of one of the farm's, which lie in `folder`.

    It can't be a UserError: whatever catches that imports these packages.
    """
    problem = next(filter(None, (problem_with_package(name, folder) for name in OWN)), None)
    if problem is not None:
        print(f"farm: {problem}", file=sys.stderr)
        raise SystemExit(2)


def problem_with_package(name: str, folder: Path) -> str | None:
    """What is wrong if the package `name` is not the one in `folder`; None if it is."""
    spec = find_spec(name)
    if spec is None or spec.origin == str(folder / name / "__init__.py"):
        return None
    found = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), name)).resolve()
    if found.is_relative_to(folder.resolve() / name):
        return None
    return (
        f"Python finds another package `{name}` ({found}) before the farm's own ({folder / name}): take it off PYTHONPATH, "
        "start in another folder, or uninstall it."
    )
