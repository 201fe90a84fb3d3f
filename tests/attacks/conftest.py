"""What the tests of attacks share with those of the judge."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "research"))

from harness import Harness


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Prepared data, victims around it, and the real judge."""
    harness = Harness.start(tmp_path_factory.mktemp("attacks"))
    yield harness
    harness.close()
