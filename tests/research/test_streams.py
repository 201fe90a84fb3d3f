"""Whatever a caller leaves of the standard streams, and whatever the system refuses, is one line at most."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from research.streams import EVERYWHERE, REFUSALS, installation_refusal, refusal

WRITES = """
import os, sys
from research.streams import prepare_streams
prepare_streams()
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("h\\u00e9 \\u597d")
sys.stdout.flush()
print("told", file=sys.stderr)
sys.exit(0 if file > 2 else 3)
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_closed_stream_leads_nowhere_and_not_into_the_next_file(tmp_path: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    file = tmp_path / "journal"
    done = subprocess.run([sys.executable, "-c", WRITES, str(file)], capture_output=True, preexec_fn=close, check=False)
    assert (done.returncode, file.read_bytes()) == (0, b"")
    assert b"Traceback" not in done.stderr


def test_what_a_terminals_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", WRITES, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, b"h\xe9 \\u597d\n")


@pytest.mark.parametrize("number", REFUSALS)
def test_what_the_machine_refuses_is_said_with_what_to_do(number: int) -> None:
    said = refusal(OSError(number, os.strerror(number), "/some/file"))
    assert said is not None
    assert said.startswith(f"/some/file: {os.strerror(number)}: ") and "\n" not in said


@pytest.mark.parametrize("number", sorted(set(REFUSALS) - set(EVERYWHERE)))
def test_only_an_option_that_moves_the_file_is_advised(number: int, tmp_path: Path) -> None:
    for name, is_moved in (("research/train.py", False), ("results/data/journal.jsonl", True)):
        said = refusal(OSError(number, os.strerror(number), str(tmp_path / name)), checkout=tmp_path)
        assert said is not None and ("--home" in said, "copy of the checkout" in said) == (is_moved, not is_moved)
    assert "copy" not in str(refusal(OSError(number, os.strerror(number), "/elsewhere"), checkout=tmp_path))


def test_an_error_that_the_code_may_have_made_is_no_refusal() -> None:
    assert refusal(FileNotFoundError(errno.ENOENT, "No such file", "/tmp/x")) is None
    assert refusal(OSError("something")) is None
    assert "--home" in str(refusal(FileNotFoundError(errno.ENOENT, "No such file", "/proc/x")))


def test_a_package_that_is_missing_is_named_unless_it_is_the_farms_own() -> None:
    missing = installation_refusal(ModuleNotFoundError("No module named 'ray.job'", name="ray.job"))
    assert missing is not None and "ray " in missing and sys.executable in missing and "\n" not in missing
    assert installation_refusal(ModuleNotFoundError("No module named 'results.nothing'", name="results.nothing")) is None
    assert installation_refusal(ValueError("a bug")) is None
