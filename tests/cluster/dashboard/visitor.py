"""A browser without a window: it follows the link to a home's dashboard, and reads pages as elements."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import uvicorn
from starlette.testclient import TestClient

from cluster.dashboard.application import make_application
from cluster.dashboard.reader import HomeReader
from cluster.dashboard.serving import listening
from cluster.home import Home

TOKEN = "t" * 43

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}\u202e"
"""A text that ends an attribute, begins a script, fills in a template and turns the direction of reading."""

PAGES = ("/", "/experiments", "/experiments/mar8-0001", "/progress", "/near-misses", "/lineage", "/cost", "/sql", "/integrity")


@contextlib.contextmanager
def visitor(home: Home, *, allows_changes: bool = False) -> Iterator[TestClient]:
    """A client that has followed the link."""
    application = make_application(HomeReader(home), token=TOKEN, allows_changes=allows_changes)
    with TestClient(application, base_url="http://127.0.0.1:8765") as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        yield client


@contextlib.contextmanager
def served(home: Home) -> Iterator[str]:
    """The address of a home's pages on a port of this machine."""
    with listening(0) as opened:
        application = make_application(HomeReader(home), token=TOKEN)
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
        serving = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        serving.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        finally:  # else a test that fails would never end
            server.should_exit = True
            serving.join()


@dataclass(frozen=True, kw_only=True)
class Page:
    """The elements of a page."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    """The element that each text stands in, and the text."""

    @property
    def text(self) -> str:
        """All that is read, with single spaces."""
        return " ".join(" ".join(text for _, text in self.texts).split())

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(html: str) -> Page:
    """The elements of a page."""
    page = Page()
    reader = _Reader(page)
    reader.feed(html)
    reader.close()
    return page


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page, self._open = page, [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._page.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while len(self._open) > 1 and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self._page.texts.append((self._open[-1], data))
