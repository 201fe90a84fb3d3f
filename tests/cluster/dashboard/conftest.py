"""The dashboard over a recorded night, as a browser that came by its link sees it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from cluster.dashboard.application import make_application
from cluster.dashboard.reader import HomeReader
from cluster.home import Home
from tests.cluster.dashboard.night import record_night
from tests.cluster.dashboard.visitor import HOSTILE, TOKEN, visitor


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a recorded night."""
    home = Home(tmp_path_factory.mktemp("night"))
    record_night(home.folder)
    return home


@pytest.fixture(scope="session")
def hostile_night(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A night in which every text that a researcher or a train.py wrote tries to be more than text."""
    home = Home(tmp_path_factory.mktemp("hostile"))
    record_night(home.folder, hostile=HOSTILE)
    return home


@pytest.fixture(scope="session")
def client(night: Home) -> Iterator[TestClient]:
    """A browser at the pages of the night."""
    with visitor(night) as found:
        yield found


@pytest.fixture(scope="session")
def hostile_client(hostile_night: Home) -> Iterator[TestClient]:
    """A browser at the pages of the hostile night."""
    with visitor(hostile_night) as found:
        yield found


@pytest.fixture
def stranger(night: Home) -> Iterator[TestClient]:
    """A browser that has neither the link nor the cookie."""
    application = make_application(HomeReader(night), token=TOKEN)
    with TestClient(application, base_url="http://127.0.0.1:8765", follow_redirects=False) as found:
        yield found


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A browser at the pages of a home that isn't there yet."""
    with visitor(Home(tmp_path_factory.mktemp("empty") / "nothing")) as found:
        yield found
