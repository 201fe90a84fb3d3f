"""The process that sends a home's runs to one tracker while a farm runs: `python -m cluster.trackers.sender HOME TRACKER`.

It ends with its standard input, after one last try. Whatever goes wrong is one line on its standard output, once for each
reason, and is tried again.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.home import Home
from cluster.trackers.clients import error_in_words, open_tracker
from cluster.trackers.feed import TrackerFeed, sending
from research.errors import UserError
from research.start_apart import start_apart
from research.streams import own_output

LOOK_SECONDS = 2.0
"""How often the journal's new records are read."""

AGAIN_SECONDS = 60.0
"""How long after a failure a tracker is tried again."""

END_SECONDS = 10.0
"""How long a farm that ends waits for its trackers; what is left goes with `farm export --track`."""


@contextlib.contextmanager
def tracker_processes(home: Home, trackers: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """Sends a home's runs from a process for each tracker, which end with the block; `say` is told what goes wrong."""
    started = {name: _started(home, name) for name in dict.fromkeys(trackers)}
    telling = [threading.Thread(target=_tell, args=(name, process, say), daemon=True) for name, process in started.items()]
    for thread in telling:
        thread.start()
    try:
        yield
    finally:
        _end(started, say)
        for thread in telling:
            thread.join(1.0)


def _started(home: Home, name: str) -> "subprocess.Popen[str]":
    quiet = subprocess.DEVNULL  # clients are talkative, and the terminal is the farm's
    return start_apart("cluster.trackers.sender", str(home.folder), name, stderr=quiet, text=True)


def _tell(name: str, process: "subprocess.Popen[str]", say: Callable[[str], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        say(f"{name}: {line.strip()}")


def _end(started: "dict[str, subprocess.Popen[str]]", say: Callable[[str], None]) -> None:
    for process in started.values():
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
    deadline = time.monotonic() + END_SECONDS
    for name, process in started.items():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say(f"{name}: not everything was sent in time; farm export --track {name} sends the rest")


def main() -> int:
    """Sends until standard input ends."""
    home, name = Home(Path(sys.argv[1])), sys.argv[2]
    out = os.fdopen(own_output(), "w")
    ending = threading.Event()
    threading.Thread(target=_watch_input, args=(ending,), daemon=True).start()
    os.nice(10)  # runs on this machine are scored by the clock
    try:
        with sending(home, name):
            _send_until(ending, home, name, lambda line: print(line, file=out, flush=True))
    except UserError as problem:
        print(problem, file=out, flush=True)
        return 2
    return 0


def _send_until(ending: threading.Event, home: Home, name: str, say: Callable[[str], None]) -> None:
    told, feed, tracker = set[str](), None, None
    while True:
        is_last = ending.is_set()
        pause = LOOK_SECONDS
        try:
            if feed is None or tracker is None:
                tracker = open_tracker(name, home.folder)
                feed = TrackerFeed(home, name, tracker)
            feed.send_on()
            if is_last:
                tracker.close()
        except UserError:
            raise
        except Exception as error:  # each client has its own exceptions
            pause = AGAIN_SECONDS
            words = error_in_words(error)
            if words not in told:
                told.add(words)
                say(f"nothing is sent ({words}); it is tried again, and the farm goes on")
        if is_last:
            return
        ending.wait(pause)


def _watch_input(ending: threading.Event) -> None:
    sys.stdin.read()
    ending.set()


if __name__ == "__main__":
    sys.exit(main())
