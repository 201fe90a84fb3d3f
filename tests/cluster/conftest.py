"""What the tests of the cluster package share."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from research.result import RunSpec
from tests.cluster import warm_judge
from tests.cluster.farm_samples import make_spec
from tests.cluster.forked_farm import CONTEXT, Cheaper
from tests.cluster.ray_samples import wait_for
from tests.cluster.tiny_checkout import Checkout, make_checkout
from tests.research.judged import layers_here

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
def judge_command() -> Iterator[tuple[str, ...]]:
    """The command of real judges which need not import torch, wherever they are started."""
    with tempfile.TemporaryDirectory() as folder:  # short: paths of sockets are limited
        path = f"{folder}/judges"
        serving = CONTEXT.Process(target=warm_judge.serve, args=(path, layers_here()), daemon=True)
        serving.start()
        wait_for("listening process", Path(path).exists)
        yield (sys.executable, "-S", "-E", warm_judge.__file__, path)
        serving.kill()
