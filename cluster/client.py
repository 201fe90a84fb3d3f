"""Asking the farm that runs on a home."""

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from cluster.home import Home
from research.errors import UserError

if TYPE_CHECKING:
    from results.query import Table
    from results.store import Audience


@dataclass(frozen=True, kw_only=True)
class FarmClient:
    """A farm that answers. Every call raises UserError with what the farm says is wrong, or when it has gone."""

    pid: int
    port: int
    token: str

    def status(self) -> dict[str, Any]:
        """What each loop does, and the totals."""
        return self._ask("GET", "/status")

    def sql(self, query: str, *, audience: "Audience" = "agent") -> "Table":
        """One SELECT over the history; an `agent` sees no audit scores."""
        from results.query import Table

        answer = self._ask("POST", "/sql", {"sql": query, "audience": audience})
        rows = tuple(tuple(row) for row in answer["rows"])
        return Table(columns=tuple(answer["columns"]), rows=rows, truncated=answer["truncated"])

    def stop(self) -> None:
        """Asks the farm to end cleanly, as Ctrl-C does."""
        self._ask("POST", "/stop")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        # http.client rather than urllib: a proxy from the environment has no business here
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body or {}), {"Authorization": f"Bearer {self.token}"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserError(f"The farm (process {self.pid}) doesn't answer: {error}.") from None
        finally:
            connection.close()
        if response.status != 200:
            raise UserError(str(answer.get("error", f"the farm answered {response.status}")))
        return dict(answer)


def connect(home: Home) -> FarmClient | None:
    """The farm that runs on `home`; None where none runs (a server.json that a killed farm left is ignored)."""
    try:
        address = json.loads(home.server_json.read_text())
        client = FarmClient(pid=int(address["pid"]), port=int(address["port"]), token=str(address["token"]))
    except (OSError, ValueError, KeyError):
        return None
    if not psutil.pid_exists(client.pid):
        return None
    try:
        client.status()
    except UserError:
        return None
    return client
