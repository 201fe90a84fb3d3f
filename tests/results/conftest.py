"""An open store for a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import make_branch


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store with one branch."""
    with Store.open(with_tables(tmp_path / "home")) as opened:
        opened.add_branch(make_branch())
        yield opened
