"""What the tests of the cluster package share."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from research import start_apart
from research.result import RunSpec
from results import query_process
from tests.cluster.farm_samples import make_spec
from tests.cluster.forked_farm import Cheaper, WarmPopen, warm_python
from tests.cluster.tiny_checkout import Checkout, make_checkout
from tests.results.new_home import copy_tables

# Ray reads it when it is imported, and a farm's process sets it before: or its workers start by `uv run` where the tests do
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., RunSpec]:
    """Makes a run by its id."""
    return partial(make_spec, tmp_path)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where farms keep prepared data: one folder for all processes that tests run in."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "farm-cache"


@pytest.fixture
def checkout(tmp_path: Path, cache: Path) -> Checkout:
    return make_checkout(tmp_path / "checkout", cache)


@pytest.fixture
def quick_checkout(checkout: Checkout) -> Checkout:
    """A checkout whose runs are judged without training."""
    return replace(checkout, cheaper=Cheaper(has_quick_judge=True))


@pytest.fixture(scope="session")
def judge_command() -> tuple[str, ...]:
    """The command of real judges which need not import torch, wherever they are started."""
    return (*warm_python(), "-m", "research.run", "--serve")


@pytest.fixture(autouse=True)
def cheaper_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests' own process starts beside itself (queries, pages) need not import DuckDB and Arrow anew, and a new home's
    tables are copied.
    """
    copy_tables(monkeypatch)
    monkeypatch.setattr(query_process, "START_SECONDS", 120.0)  # the first one may have to wait for the fork server
    popen_alone = SimpleNamespace(Popen=WarmPopen, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(start_apart, "subprocess", popen_alone)
