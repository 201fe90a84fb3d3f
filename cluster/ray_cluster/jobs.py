"""Jobs on a Ray cluster, through its dashboard's port alone."""

import contextlib
import ipaddress
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cluster.event_loop import run_in_loop
from cluster.proxies import reach_directly, uses_proxies
from cluster.ray_cluster.checkout_zip import zip_checkout
from research.command_hints import to_type
from research.errors import UserError
from research.files import home_folder
from research.formatting import one_line

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""The environment variables in which Ray's own commands look for the dashboard's address, in this order."""

MODE_VARIABLE = "RAY_AUTH_MODE"
"""The environment variable that makes Ray send a token."""

REACH_SECONDS = 5.0
"""How long the dashboard may take to accept a connection."""

LOOK_SECONDS = 0.5
"""How often a job's status is polled."""

EARLY_SECONDS = 3.0
"""A job that runs for this long has found its packages and its options right."""

LONGEST_WAIT_SECONDS = 20.0
"""How long `farm submit` waits for its job to begin; where nodes are still to be added, that can take minutes."""

STOP_SECONDS = 30
"""How long a job that is stopped may take to end on its own; Ray's default is too short for the farm's clean-up."""


def dashboard_address(given: str | None) -> str:
    """The dashboard's URL: `given`, else the one in Ray's environment variables, else this machine's. Raises UserError."""
    named = [os.environ.get(variable, "") for variable in ADDRESS_VARIABLES]
    address = given or next((value for value in named if value.startswith(("http://", "https://"))), DEFAULT_ADDRESS)
    address = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
    parts = urlsplit(address)
    is_spaced = any(character.isspace() for character in address)
    if parts.scheme not in ("http", "https") or not parts.hostname or is_spaced or not _has_valid_port(parts):
        raise UserError(f"{address} is not the address of a dashboard: give --address http://HOST:PORT.")
    return address


def _has_valid_port(parts: SplitResult) -> bool:
    """Whether a URL's port is a number from 0 to 65535, or left out."""
    try:
        return parts.port is None or parts.port >= 0
    except ValueError:
        return False


def own_token() -> str | None:
    """This user's token, from where Ray looks for it; None if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or home_folder() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip() or None
    return None


class Jobs:
    """The jobs of one cluster. All methods raise UserError, in one line, if the cluster can't be reached or refuses."""

    def __init__(self, address: str) -> None:
        """`address` is the dashboard's URL."""
        self.address = address
        check_reachable(address)
        os.environ[ADDRESS_VARIABLES[0]] = address  # otherwise Ray's variables would override `address`
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for quiet in ("dashboard_sdk", "job.sdk"):  # they log each package and socket
            logging.getLogger(f"ray.dashboard.modules.{quiet}").setLevel(logging.WARNING)
        self.token_found = False
        """Whether the cluster needs a token that Ray's own commands send only if RAY_AUTH_MODE is set."""
        with _in_one_line(address):
            try:
                self._client: Any = JobSubmissionClient(address)
            except AuthenticationError:
                token = own_token()
                if token is None or MODE_VARIABLE in os.environ:
                    raise
                self._client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})
                self.token_found = True

    def submit(self, entrypoint: str, checkout: Path, environment: Mapping[str, str]) -> str:
        """Starts a job that works in a copy of the checkout; returns its id."""
        variables = {**environment, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
        with tempfile.TemporaryDirectory() as folder, _in_one_line(self.address):
            working_folder = Path(folder) / "checkout.zip"
            zip_checkout(checkout, working_folder)
            runtime_env = {"working_dir": str(working_folder), "env_vars": variables}
            return str(self._client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))

    def follow(self, job: str, say: Callable[[str], None]) -> str:
        """Passes the job's output to `say` until the job has ended; returns its final status."""

        async def pass_on() -> None:
            async for text in self._client.tail_job_logs(job):
                say(text)

        with _in_one_line(self.address):
            run_in_loop(pass_on())
            return self.wait(job)

    def wait(self, job: str) -> str:
        """Waits until the job has ended; returns its final status: SUCCEEDED, FAILED or STOPPED."""
        with _in_one_line(self.address):
            while not (status := self._client.get_job_status(job)).is_terminal():
                time.sleep(LOOK_SECONDS)
            return str(status.value)

    def failed_at_once(self, job: str) -> str | None:
        """Why a job has failed within EARLY_SECONDS, or before it has run that long; None if it has not."""
        running_since = None
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        with _in_one_line(self.address):
            while (now := time.monotonic()) < deadline:
                status = self._client.get_job_status(job)
                if status.value == "FAILED":
                    lines = [line for line in str(self._client.get_job_logs(job)).splitlines() if line.strip()]
                    return lines[-1].strip() if lines else self.problem(job)
                if status.is_terminal():
                    return None
                if status.value == "RUNNING":
                    running_since = running_since or now
                    if now - running_since > EARLY_SECONDS:
                        return None
                time.sleep(LOOK_SECONDS)
        return None

    def log(self, job: str) -> str:
        """All that the job has printed."""
        with _in_one_line(self.address):
            return str(self._client.get_job_logs(job))

    def problem(self, job: str) -> str:
        """The first line of Ray's message on a job that failed before it printed anything."""
        with _in_one_line(self.address):
            lines = str(self._client.get_job_info(job).message or "").strip().splitlines()
            return lines[0].partition(", last available logs")[0] if lines else "Ray gave no reason"

    def stop(self, job: str) -> None:
        """Stops a job; does nothing if it has ended."""
        with _in_one_line(self.address):
            self._client.stop_job(job)


def check_reachable(address: str) -> None:
    """Raises UserError if nothing accepts a connection; Ray's client would take minutes to fail.

    A dashboard on this machine is asked without a proxy from now on, whatever its name is.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((host, port), timeout=REACH_SECONDS) as connection:
            if ipaddress.ip_address(connection.getpeername()[0]).is_loopback:
                reach_directly(host)
    except (OSError, ValueError):
        start = to_type("ray start --head")
        raise UserError(
            f"No Ray answers at {address}: start one ({start}), or give --address http://HOST:PORT of its dashboard."
        ) from None


def told(error: Exception) -> str:
    """The last line of an error that holds words; a request that no node answers ends in a dot alone."""
    lines = [one_line(line) for line in str(error).splitlines() if any(character.isalpha() for character in line)]
    if not lines or lines[-1].rstrip(" :.").endswith("with status code 500"):
        return f"{lines[-1] if lines else type(error).__name__} (is a node of it alive? `ray status` there says so)"
    return lines[-1]


@contextlib.contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    """Turns the errors of Ray's client into a UserError of one line."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise UserError(
            f"Ray at {address} refuses the token: set RAY_AUTH_MODE=token here, and put the cluster's token "
            "(ray get-auth-token) into ~/.ray/auth_token or the file that RAY_AUTH_TOKEN_PATH names."
        ) from None
    except (requests.exceptions.ConnectionError, aiohttp.ClientError, ConnectionError):
        proxy = " The environment names a proxy: add the host to NO_PROXY if it is in between." if uses_proxies() else ""
        raise UserError(f"Ray at {address} closed the connection: is it still running?{proxy}") from None
    except (requests.exceptions.RequestException, KeyError):  # not JSON, or without a version
        raise UserError(f"What answers at {address} is not a Ray dashboard: give --address http://HOST:PORT.") from None
    except RuntimeError as error:
        raise UserError(f"Ray at {address} refuses: {told(error)}") from None
