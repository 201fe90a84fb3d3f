"""The server and the client through which commands talk to the running farm: HTTP on loopback, with a token from the home.

Only the process that runs the farm can open its database, so `farm sql` and `farm status` ask it.
"""

import hmac
import http.client
import json
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from cluster.home import Home
from cluster.person_requests import Answer, Ask
from research.errors import FarmEnded, UserError
from research.files import not_writable, write_atomically
from research.formatting import one_line, size

if TYPE_CHECKING:
    from agent.submissions import Submission
    from results.foreign_import import Import
    from results.query import Table
    from results.tables import Audience

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 2**24
"""The largest request: an imported table of some ten thousand rows."""

SILENT_SECONDS = 30.0
"""How long a caller may be silent before its connection is closed."""

DISCARDED_SECONDS = 2.0
"""How long what a caller without the token sends is read and dropped, so that it can read its answer."""

CONNECT_SECONDS = 10.0
"""How long a farm may take to say that it is there."""

ANSWER_SECONDS = 30.0
"""How long a farm may take for any other answer."""


ENDING_SECONDS = 2.0
"""How long a farm that has closed a connection may take to end; one that lives longer doesn't answer."""

STARTING_SECONDS = 5.0
"""How long a process that has just taken a home may take to answer, or to release the home."""

YOUNG_SECONDS = 60.0
"""How long a process that doesn't answer has held its home at most if it is said to be starting: reading a long history takes
seconds, more on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The answer to a submission (`agent/submissions.py`)."""

    id: str
    is_taken_up: bool
    """Whether a loop of the group is running, so that nothing needs to be started."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a caller that hung up, and no more than a line of anything else: it ends one request only."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("a request to the farm failed: %r", error)


class FarmServer:
    """The server: `GET /status`, `POST /sql` {"sql": ..., "audience": ...}, `POST /request` with the fields of an `Ask`,
    `POST /import` {"event": what `event_of` gives, "replace": ...}, `POST /submit` with the fields of a `Submission`, and
    `POST /stop`, answered in its own threads.

    Every request needs the header `Authorization: Bearer <token>`. A caller's mistake comes back as status 400 with
    {"error": one line}.
    """

    def __init__(
        self,
        home: Home,
        *,
        status: Callable[[], dict[str, Any]],
        query: Callable[[str, "Audience"], "Table"],
        ask: Callable[[Ask], Answer],
        record_import: Callable[[dict[str, Any], bool], "Import"],
        submit: Callable[[dict[str, Any]], Submitted],
        stop: Callable[[], None],
    ) -> None:
        """`status`, `query(sql, audience)`, `ask`, `record_import(event, replace)`, `submit(fields)` and `stop` are called in
        the server's threads.
        """
        self._home = home
        self._token = secrets.token_urlsafe(32)

        answers: Answers = {
            "GET /status": lambda body: json.dumps(status(), default=str),
            "POST /sql": lambda body: query(str(body["sql"]), audience_of(body)).to_json(),
            "POST /request": lambda body: json.dumps(asdict(ask(Ask(**body)))),
            "POST /import": lambda body: json.dumps(asdict(record_import(body["event"], body["replace"]))),
            "POST /submit": lambda body: json.dumps(asdict(submit(body))),
            "POST /stop": lambda body: json.dumps({"stopping": True}),
        }
        # a stop may end this process before it could answer
        self._http = _Server(("127.0.0.1", 0), _handler(self._token, answers, {"POST /stop": stop}))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="http", daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def start(self) -> None:
        """Starts answering and writes server.json, which only this user can read. Raises UserError if it can't be written."""
        self._thread.start()
        address = {"pid": os.getpid(), "port": self.port, "token": self._token}
        try:
            write_atomically(self._home.server_json, json.dumps(address), private=True)
        except OSError as error:
            self.close()
            raise not_writable("home", self._home.folder, error, option="--home") from None

    def close(self) -> None:
        """Removes server.json and stops answering."""
        self._home.server_json.unlink(missing_ok=True)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@dataclass(frozen=True, kw_only=True)
class FarmClient:
    """The client of a running farm. Every call raises UserError with the farm's own message, or if it doesn't answer."""

    pid: int
    port: int
    token: str

    def status(self, *, within_s: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The state of each loop, the devices and the queue."""
        return self._ask("GET", "/status", within_s=within_s)

    def sql(self, query: str, *, audience: "Audience" = "agent") -> "Table":
        """The answer to one SELECT over the history; an `agent` sees no audit scores. Raises FarmEnded if the farm ends."""
        from results.query import Table

        answer = self._ask("POST", "/sql", {"sql": query, "audience": audience})
        rows = tuple(tuple(row) for row in answer["rows"])
        return Table(columns=tuple(answer["columns"]), rows=rows, truncated=answer["truncated"])

    def ask(self, ask: Ask) -> Answer:
        """Asks something of a group's loops."""
        told = self._ask("POST", "/request", asdict(ask))
        return Answer(**{**told, "files": tuple(told["files"])})

    def record_import(self, event: dict[str, Any], *, replace: bool) -> "Import":
        """Has the rows of another system's file recorded."""
        from results.foreign_import import Import

        return Import(**self._ask("POST", "/import", {"event": event, "replace": replace}))

    def submit(self, submission: "Submission") -> Submitted:
        """Submits an idea from outside to a group's loops."""
        return Submitted(**self._ask("POST", "/submit", asdict(submission)))

    def stop(self) -> None:
        """Asks the farm to end cleanly, as Ctrl-C does."""
        self._ask("POST", "/stop")

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, within_s: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        sent = json.dumps(body or {})
        if len(sent) > MAX_BODY_BYTES:
            raise UserError(f"That is too much for a running farm ({size(len(sent))}): stop it first.")
        # not urllib, which would use a proxy from the environment
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=within_s)
        try:
            connection.request(method, path, sent, {"Authorization": f"Bearer {self.token}"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            if _has_ended(self.pid, wait_s=0.0 if isinstance(error, TimeoutError) else ENDING_SECONDS):
                raise FarmEnded from None
            how = f"try again, or end it with: kill {self.pid}"
            raise UserError(f"The farm (process {self.pid}) doesn't answer ({error}): {how}") from None
        finally:
            connection.close()
        if response.status == 503:
            raise FarmEnded
        if response.status != 200:
            raise UserError(str(answer.get("error", f"the farm answered {response.status}")))
        return dict(answer)


def connect(home: Home) -> FarmClient | None:
    """The client of the farm that runs on `home`; None if none runs, or it can't answer (see `silent_farm`).

    A server.json that a killed farm left is ignored, and so is one that came with a copy of another farm's home.
    """
    try:
        address = json.loads(home.server_json.read_text())
        client = FarmClient(pid=int(address["pid"]), port=int(address["port"]), token=str(address["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not _is_alive(client.pid) or _is_stopped(client.pid):
        return None
    try:
        status = client.status(within_s=CONNECT_SECONDS)
    except UserError:
        return None
    return client if _is_same_folder(status.get("home"), home) else None


def connect_soon(home: Home) -> FarmClient | None:
    """The client of the farm that runs on `home`, which may just be starting; None if none runs or it doesn't answer soon."""
    until = monotonic() + STARTING_SECONDS
    while (client := connect(home)) is None and home.holder() is not None and monotonic() < until:
        if (pid := home.holder_pid()) is not None and _is_stopped(pid):
            return None
        sleep(0.1)
    return client


def ask_farm(home: Home) -> FarmClient | None:
    """The client of the farm that has to record what a command asks; None if the home is free.

    Raises UserError if a process holds the home and doesn't answer soon.
    """
    client = connect_soon(home)
    if client is None and (silent := silent_farm(home)):
        raise UserError(silent)
    return client


def silent_farm(home: Home) -> str:
    """What to say of a process that holds the home but can't be asked; empty if none does."""
    holder = home.holder()
    if holder is None:
        return ""
    pid = home.holder_pid()
    if pid is not None and _is_stopped(pid):
        return f"The farm on {home.folder} ({holder}) was paused and can't answer: `kill -CONT {pid}` lets it go on."
    if home.seconds_held() < YOUNG_SECONDS:
        return f"The farm on {home.folder} ({holder}) is just starting, and doesn't answer yet: try again in a moment."
    ends_it = "end it" if pid is None else f"`kill {pid}` ends it"
    return f"The farm on {home.folder} ({holder}) doesn't answer: it is ending, try again; or it hangs, and {ends_it}."


def _is_same_folder(told: Any, home: Home) -> bool:
    """Whether the farm that answered has this home: the folders are the same, or its name means nothing here and it is held."""
    try:
        return Path(str(told)).samefile(home.folder)
    except OSError:
        return home.holder() is not None


def _is_stopped(pid: int) -> bool:
    """Whether a process of this machine was paused, by Ctrl-Z or SIGSTOP, and so answers nothing."""
    import psutil

    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _has_ended(pid: int, *, wait_s: float) -> bool:
    """Whether a process has ended, or does so soon: one that ends closes its connections a moment before."""
    until = monotonic() + wait_s
    while _is_alive(pid):
        if monotonic() >= until:
            return False
        sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _parsed(sent: bytes) -> dict[str, Any]:
    body = json.loads(sent or b"{}")
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body


def audience_of(body: Mapping[str, Any]) -> "Audience":
    """The caller: an agent, which sees no audit scores, unless the request says that it is a person."""
    return "person" if body.get("audience") == "person" else "agent"


Answers = Mapping[str, Callable[[dict[str, Any]], str]]
"""What answers each method and path, given a request's body."""


def _handler(token: str, answers: Answers, after: Mapping[str, Callable[[], None]]) -> type[BaseHTTPRequestHandler]:
    """The class that answers requests by `answers`, and then does what `after` has for them."""

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENT_SECONDS

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: Any) -> None:
            """Logs nothing: the terminal belongs to the display."""

        def _answer(self) -> None:
            if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {token}".encode()):
                self._send(401, json.dumps({"error": "wrong token"}))
                return self._discard()
            length = self.headers.get("Content-Length", "0")
            if not (length.isdecimal() and int(length) <= MAX_BODY_BYTES):
                self._send(413, json.dumps({"error": f"a request has at most {MAX_BODY_BYTES} bytes, and says how many"}))
                return self._discard()
            sent = self.rfile.read(int(length))
            asked = f"{self.command} {self.path}"
            answer = answers.get(asked)
            if answer is None:
                return self._send(404, json.dumps({"error": f"no {asked} here"}))
            try:
                self._send(200, answer(_parsed(sent)))
            except FarmEnded as error:
                self._send(503, json.dumps({"error": str(error)}))
            except UserError as error:
                self._send(400, json.dumps({"error": str(error)}))
            except (ValueError, KeyError, TypeError) as error:
                self._send(400, json.dumps({"error": f"the request can't be read: {error!r}"}))
            except ConnectionError:  # it hung up
                raise
            except Exception as error:  # of the system or of DuckDB: the caller is told, and the farm goes on
                self._send(500, json.dumps({"error": f"the farm could not do it: {one_line(str(error)) or error!r}"}))
            after.get(asked, lambda: None)()

        def _discard(self) -> None:
            """Drops what the caller still sends: closing with a body unread could cut the answer off."""
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(DISCARDED_SECONDS)
            until = monotonic() + DISCARDED_SECONDS
            with suppress(OSError):
                while monotonic() < until and self.rfile.read1(2**16):
                    pass

        def _send(self, code: int, text: str) -> None:
            data = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
