"""`farm dashboard`: the application on a port of loopback, until Ctrl-C, or beside a farm until that ends.

`python -m cluster.dashboard.serving HOME` serves until its standard input ends.
"""

import contextlib
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from cluster.dashboard.guard import TOKEN
from cluster.home import Home
from research.errors import UserError
from research.start_apart import start_apart

if TYPE_CHECKING:
    from cluster.dashboard.reader import HomeReader

ADDRESS = "127.0.0.1"

USUAL_PORT = 8765
"""The port that is used unless it is taken, so that a tunnel to another machine can stay as it is."""


def serve(home: Home, *, port: int | None = None, allows_changes: bool = False, say: Callable[[str], None] = print) -> None:
    """Serves a home's pages until Ctrl-C, and says under which link. Raises UserError if the port is taken.

    `port` None means USUAL_PORT, or any if that is taken; 0 means any.
    """
    import uvicorn

    from cluster.dashboard.application import make_application
    from cluster.dashboard.reader import HomeReader

    with listening(port) as open_socket:
        reader = HomeReader(home)
        read_ahead(reader)
        token = secrets.token_urlsafe(32)
        application = make_application(reader, token=token, allows_changes=allows_changes)
        say(f"http://{ADDRESS}:{open_socket.getsockname()[1]}/?{urlencode({TOKEN: token})}")
        config = uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[open_socket])


def read_ahead(reader: "HomeReader") -> None:
    """Has everything read that the first page would wait for: the journal, by both of its readers, and what intervals need."""
    from cluster.dashboard.headlines import headlines

    reader.rows("SELECT 1")
    for headline in headlines(reader.histories(), reader.home.runs):
        _ = headline.confirmation


@contextlib.contextmanager
def listening(port: int | None) -> Iterator[socket.socket]:
    """A socket on loopback. Raises UserError if the port can't be used."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((ADDRESS, USUAL_PORT if port is None else port))
        except OSError as error:
            if port is not None:
                raise UserError(f"Port {port} can't be used ({error.strerror}): give another one as --port.") from None
            made.bind((ADDRESS, 0))
        made.listen()  # from now on a browser waits instead of being refused
        yield made


@contextlib.contextmanager
def beside(home: Home, say: Callable[[str], None]) -> Iterator[None]:
    """Serves a home's pages from a process of its own, which costs this one nothing and ends with it; says under which link."""
    serving = start_apart("cluster.dashboard.serving", str(home.folder), text=True)

    def tell() -> None:
        assert serving.stdout is not None
        for line in serving.stdout:
            say(f"dashboard: {line.strip()}")

    telling = threading.Thread(target=tell, name="dashboard", daemon=True)
    telling.start()
    try:
        yield
    finally:
        serving.terminate()
        serving.wait()
        telling.join()


def main() -> int:
    """Serves the home that the command line names until standard input ends."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        serve(Home(Path(sys.argv[1])), say=lambda link: print(link, flush=True))
    except UserError as error:
        print(f"there is none ({error})", flush=True)
        return 2
    return 0


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
