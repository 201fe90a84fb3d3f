"""Pages follow the journal and the running farm, and the dashboard comes and goes with its farm."""

import asyncio
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cluster.dashboard.changes import Changes
from cluster.dashboard.confirming import log_of, start_confirmation
from cluster.dashboard.reader import HomeReader
from cluster.dashboard.serving import beside, listening
from cluster.home import Home
from cluster.local_api import FarmServer
from research.errors import UserError
from results.store import Store
from tests.cluster.dashboard.night import GROUP, OTHER, record_night
from tests.cluster.dashboard.visitor import page_of, visitor
from tests.cluster.ray_samples import wait_for


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    record_night(home.folder)
    return home


@pytest.fixture
def farm(home: Home) -> Iterator[dict[str, Any]]:
    """What a running farm says of itself, which the test may change."""
    training = {"phase": "training", "experiment": "mar8-0013", "title": "QK", "fraction": 0.25, "seconds": 75.0, "loss": 3.21}
    status: dict[str, Any] = {
        "tag": "mar8",
        "home": str(home.folder),
        "seconds": 60.0,
        "loops": {
            GROUP: training,
            OTHER: {"phase": "proposing", "title": ""},
        },
        "devices": ["cuda:0", "cuda:1", "cuda:2"],
        "waiting": ["one", "two"],
        "quarantined": {"cuda:2": "three runs were lost in a row"},
    }  # fmt: skip

    def never(*given: Any) -> Any:
        raise UserError("this farm only tells")

    server = FarmServer(home, status=lambda: status, query=never, ask=never, record_import=never, submit=never, stop=never)
    server.start()
    yield status
    server.close()


def test_the_devices_of_a_running_farm_say_what_they_do(home: Home, farm: dict[str, Any]) -> None:
    with visitor(home) as client:
        page = page_of(client.get("/").text)
        for fact in (
            "cuda:0 training · 3m 45s left",
            "QK gain per head",
            "loss 3.210",
            "waits for work",
            "three runs were lost",
            "2 queued",
        ):
            assert fact in page.text
        assert [one["value"] for one in page.named("progress")] == ["0.250"] and "farm running" in page.text
        assert not page.named("form"), "it only reads"
        assert "running cuda:0" in page_of(client.get("/experiments?status=unfinished").text).text


def test_with_control_each_loop_has_its_buttons(home: Home, farm: dict[str, Any]) -> None:
    farm["loops"][OTHER] = {"phase": "paused"}
    with visitor(home, allows_changes=True) as client:
        buttons = [one["value"] for one in page_of(client.get("/fragments/devices").text).named("button")]
        assert buttons == ["pause", "stop loop", "resume", "stop loop"]
        form = {"what": "pause", "branch": GROUP, "group": GROUP}
        answer = client.post("/control", data=form, headers={"origin": "http://127.0.0.1:8765"})
        assert answer.status_code == 400 and "this farm only tells" in answer.text, "the farm that holds the home is asked"
        assert "once the farm that runs has stopped" in client.get("/experiments/mar8-0001").text
        with home.lock():
            form, own = {"what": "confirm", "experiment": "mar8-0001"}, {"origin": "http://127.0.0.1:8765"}
            answer = client.post("/control", data=form, headers=own)
        assert answer.status_code == 400 and "farm stop" in answer.text, "a farm has the devices"


def test_a_confirmation_that_cannot_begin_says_why_on_the_page(home: Home) -> None:
    with pytest.raises(UserError, match=r"commit|git|prepared"):
        start_confirmation(home, "mar8-0001", wait_s=60)
    assert log_of(home).read_text().startswith("farm: ") and home.holder() is None


def test_pages_hear_of_a_new_record_and_of_what_the_farm_says(home: Home, farm: dict[str, Any]) -> None:
    reader, heard = HomeReader(home), []

    async def listen(changes: Changes) -> None:
        async for event in changes.events():
            heard.append(event["event"])

    async def listened() -> None:
        changes = Changes(reader)
        tasks = [asyncio.create_task(changes.watch()), asyncio.create_task(listen(changes))]
        await asyncio.sleep(0.1)
        with Store.open(home.folder) as store:
            store.add_event("anything", {"branch": GROUP})
        until = time.monotonic() + 10
        while time.monotonic() < until and not {"journal", "farm", "page"} <= set(heard):
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(listened())
    reader.close()
    assert heard[0] == "hello" and {"journal", "farm", "page"} <= set(heard)


def test_a_dashboard_beside_a_farm_tells_its_link_and_ends_with_it(home: Home) -> None:
    said: list[str] = []
    with beside(home, said.append):
        wait_for("link", lambda: said)
        link = urlsplit(said[0].split()[-1])
        connection = http.client.HTTPConnection("127.0.0.1", link.port or 0, timeout=10)
        connection.request("GET", f"/?{link.query}")
        assert link.hostname == "127.0.0.1" and connection.getresponse().status == 303
        connection.close()
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", link.port or 0, timeout=10).request("GET", "/")


def test_a_dashboard_ends_when_its_farm_is_killed(home: Home) -> None:
    words = [sys.executable, "-m", "cluster.dashboard.serving", str(home.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdin is not None and serving.stdout is not None
        assert "token=" in serving.stdout.readline()
        serving.stdin.close()
        assert serving.wait(10) == 0


def test_a_port_that_is_taken_is_named() -> None:
    with listening(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"{port}.*--port"), listening(port):
            pass
