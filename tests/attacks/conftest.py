"""What the tests of attacks share with those of the judge."""

from collections.abc import Iterator

import pytest

from tests.attacks.harness import Harness


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Prepared data, victims around it, and the real judge."""
    harness = Harness.start(tmp_path_factory.mktemp("attacks"))
    yield harness
    harness.close()
