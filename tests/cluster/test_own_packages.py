"""Another package with the name of one of the farm's is one line, not a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.own_packages import OWN, problem_with_package

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", OWN)
def test_the_farms_own_packages_are_told_from_others(name: str, tmp_path: Path) -> None:
    assert problem_with_package(name, ROOT) is None
    problem = problem_with_package(name, tmp_path)
    assert problem is not None and f"`{name}`" in problem and "PYTHONPATH" in problem and "\n" not in problem


@pytest.mark.parametrize("other", ["results.py", "research/__init__.py"])
def test_a_command_names_the_package_that_is_in_the_way(other: str, tmp_path: Path) -> None:
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    command = [sys.executable, "-P", "-c", "from cluster.own_packages import main; main()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("farm: ") and done.stderr.count("\n") == 1
    assert str(tmp_path / other) in done.stderr


def test_an_interrupt_while_the_command_is_imported_is_one_line() -> None:
    program = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "cluster.cli":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            except KeyboardInterrupt:  # as in a callback of an import's lock, where Python loses it
                pass
sys.meta_path.insert(0, Interrupted())
from cluster.own_packages import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "farm: stopped\n")
