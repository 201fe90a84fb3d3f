"""The night that the dashboard's tests look at, in a home of each test's own."""

import shutil
from pathlib import Path

import pytest

from cluster.home import Home
from tests.cluster.dashboard.conftest import night

__all__ = ["night"]


@pytest.fixture
def home(night: Home, tmp_path: Path) -> Home:
    """A home with the night's journal, which nothing was sent from."""
    (tmp_path / "home").mkdir()
    shutil.copyfile(night.journal, tmp_path / "home" / "journal.jsonl")
    return Home(tmp_path / "home")
