"""Work that nobody waits for once a command was stopped."""

import asyncio
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.background import in_background, is_left_behind
from cluster.home import Home
from tests.cluster.farm_samples import write_text
from tests.cluster.ray_samples import wait_for
from tests.cluster.tiny_checkout import Checkout


def test_its_result_and_its_error_come_back() -> None:
    assert asyncio.run(in_background(max, 1, 2)) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_background(divmod, 1, 0))
    assert not is_left_behind()


def test_a_cancelled_task_does_not_wait_for_it() -> None:
    started, finish = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        finish.wait()

    async def cancel() -> None:
        task = asyncio.create_task(in_background(work))
        while not started.is_set():
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(cancel())
    assert is_left_behind()
    finish.set()
    wait_for("its end", lambda: not is_left_behind())


@pytest.mark.parametrize("command", [("prepare",), ("run", "--tag", "one", "--budget", "1")])
def test_ctrl_c_ends_a_command_that_prepares_data_at_once(command: tuple[str, ...], checkout: Checkout, tmp_path: Path) -> None:
    """The one that waits here, for another process that prepares the same, could not be interrupted otherwise."""
    text = write_text(tmp_path / "mine")
    (checkout.cache / "prepared").mkdir(parents=True, exist_ok=True)
    with (checkout.cache / "prepared" / ".files-mine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        farm = checkout.start(*command, "--devices", "cpu", "--source", f"files:{text}")
        printed = output_of(checkout)
        wait_for("the wait", lambda: "waiting for it" in printed() or farm.poll() is not None)
        os.killpg(farm.pid, signal.SIGINT)
        output, _ = farm.communicate(timeout=20)
    assert farm.returncode == 130, output
    last = output.splitlines()[-1]
    assert last.startswith("farm: stopped") and "same command" in last and "Traceback" not in output
    assert Home(checkout.home).holder() is None
    assert checkout.git("status", "--porcelain") == "" and checkout.git("branch", "--show-current") == "main\n"


def output_of(checkout: Checkout) -> Callable[[], str]:
    """What the command that was started last has printed so far."""
    [file] = checkout.folder.parent.glob("printed-*")
    return file.read_text
