"""What the tests of the cluster package share."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from research.result import RunSpec
from tests.cluster.farm_samples import make_spec
from tests.cluster.ray_samples import ray_cluster
from tests.cluster.tiny_checkout import Checkout, make_checkout

# Ray reads it when it is imported, and a farm's process sets it before: or its workers start by `uv run` where the tests do
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of one node for a module's tests."""
    with ray_cluster() as cluster:
        yield cluster


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
