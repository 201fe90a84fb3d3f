"""What the tests of the cluster package share."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from farm_samples import make_spec

from research.result import RunSpec


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., RunSpec]:
    """Makes a run by its id."""
    return partial(make_spec, tmp_path)
