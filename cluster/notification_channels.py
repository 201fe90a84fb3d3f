"""The channels by which a farm notifies people elsewhere: a command of theirs with JSON on its input, and a webhook.

A thread sends messages from a bounded queue: the farm never waits for one, and never fails because of one.
"""

import asyncio
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from cluster.hooks import problem_of
from cluster.webhooks import Shape, request_of, shape_of

MOST_WAITING = 100
"""The most messages that may wait; beyond that the newest are dropped."""

SECONDS = 15.0
"""How long one message may take through one channel."""

END_SECONDS = 5.0
"""How long a farm that ends waits until its last messages are out."""


class Channels:
    """Sends messages to a command, a webhook or both. Any thread may send."""

    def __init__(self, *, command: str | None, url: str | None, shape: Shape | None, say: Callable[[str], None],
                 timeout_s: float = SECONDS) -> None:  # fmt: skip
        """`shape` None: by the host of `url`. `say` is told of a message that did not get out, once for each reason."""
        self._command, self._url, self._say, self._timeout_s = command, url, say, timeout_s
        self._shape: Shape = "json" if url is None else shape or shape_of(url)
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="notifications", daemon=True)
        self._thread.start()

    def send(self, message: dict[str, Any]) -> None:
        """Enqueues a message, whose sentence for people is its `text`."""
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self._fail(f"{MOST_WAITING} messages wait already")

    def close(self, wait_s: float = END_SECONDS) -> None:
        """Waits for what is still to be sent, but not long."""
        try:
            self._waiting.put_nowait(None)
            self._thread.join(wait_s)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._fail("the farm has ended before the last messages were out")

    def _work(self) -> None:
        while (message := self._waiting.get()) is not None:
            if self._command is not None:
                self._try("--notify", lambda found=message: self._tell_command(found))  # type: ignore[misc]
            if self._url is not None:
                self._try("--notify-url", lambda found=message: self._post(found))  # type: ignore[misc]

    def _try(self, option: str, send: Callable[[], str]) -> None:
        try:
            problem = send()
        except Exception as error:  # whatever it is, the farm goes on
            problem = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        if problem:
            self._fail(f"{option}: {problem}")

    def _fail(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            self._say(f"a notification was not sent ({problem}); the farm goes on")

    def _tell_command(self, message: Mapping[str, Any]) -> str:
        assert self._command is not None
        return asyncio.run(problem_of(self._command, json.dumps(message), self._timeout_s))

    def _post(self, message: Mapping[str, Any]) -> str:
        """Why the webhook did not take a message; empty if it did. Names its host alone: the rest is a secret."""
        assert self._url is not None
        url, body = request_of(self._shape, self._url, message)
        headers = {"Content-Type": "application/json", "User-Agent": "autoresearch-farm"}  # Discord refuses Python's own
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s):
                return ""
        except urllib.error.HTTPError as error:
            return f"{urlsplit(url).hostname} answered {error.code}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            return f"{urlsplit(url).hostname} can't be reached ({getattr(reason, 'strerror', None) or type(reason).__name__})"
