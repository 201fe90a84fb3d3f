"""Settings of every process that tests run in and start, made before any of them imports torch."""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# as many test processes as cores: each computes by one thread, and none spins while it waits for another
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# without bytecode each process that imports torch compiles it anew: ten seconds of a core, dozens of times
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

for key in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):  # with one a farm asks a model by default, which costs
    held = os.environ.pop(key, None)
    if held and os.environ.get("FARM_LIVE_TESTS") == "1":  # for the tests marked live alone
        os.environ[f"FARM_LIVE_{key}"] = held

gc.disable()  # until all tests are imported, which stay: looking for garbage in them is a fifth of what that takes


IMPORTED_BY_ALL = (
    "import torch._dynamo, torch._inductor.utils",
    "import acp, anthropic, hypothesis, matplotlib.figure, mcp, pandas, ray, scipy.special, starlette.testclient",
)
"""What every test process imports when it collects, in halves that take about as long as each other to compile."""


def pytest_configure(config: pytest.Config) -> None:
    """In a fresh environment the bytecode is written once, before each of the test processes would compile all of it."""
    is_first = "PYTEST_XDIST_WORKER" not in os.environ and getattr(config.option, "numprocesses", None)
    torch = find_spec("torch")
    if is_first and torch is not None and torch.cached is not None and not Path(torch.cached).exists():
        compiling = [subprocess.Popen([sys.executable, "-c", code]) for code in IMPORTED_BY_ALL]
        for process in compiling:
            process.wait()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_ray_folder() -> Iterator[None]:
    """Ray's folder of this test process alone: elsewhere a farm would find, and join, the cluster of another test."""
    # in /tmp, because paths of sockets are limited to some 100 characters
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_list_of_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Homes and caches of tests aren't remembered as the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
