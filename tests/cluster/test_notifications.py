"""People elsewhere are told what matters, and a farm neither waits for it nor fails by it."""

import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.proposing import BUDGET_SPENT
from cluster.notification_channels import Channels
from cluster.notifications import Notifications
from cluster.webhooks import URL_VARIABLE, checked_url, request_of, shape_of
from research.errors import UserError
from results.experiment import ExperimentRecord, Verdict
from results.head_gain import ExpectedGain
from results.overfitting import ON_VALIDATION_ALONE
from tests.in_time import in_time
from tests.results.result_samples import make_experiment


@contextmanager
def webhook(*, status: int = 200, hangs: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a service on this machine, and the bodies that it gets."""
    got: list[dict[str, Any]] = []
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append({"path": self.path, "agent": self.headers["User-Agent"], "body": body})
            if hangs:
                released.wait(30)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/services/SECRET", got
    released.set()
    server.shutdown()
    server.server_close()


def told_by(url: str | None = None, command: str | None = None, **options: Any) -> tuple[Channels, list[str]]:
    said: list[str] = []
    return Channels(command=command, url=url, shape=None, say=said.append, **options), said


def gain(head: float) -> ExpectedGain:
    return ExpectedGain(baseline=1.05, gain=1.05 - head, low=1.04 - head, high=1.06 - head, sigma=0.001)


def test_each_of_the_five_things_is_told_once() -> None:
    record = ExperimentRecord(experiment=make_experiment(3), verdict=Verdict(decision="invalid", reason="it looked ahead"))
    alone = ExperimentRecord(experiment=make_experiment(4),
                             verdict=Verdict(decision="discard", reason=f"P 0.9, but {ON_VALIDATION_ALONE}"))  # fmt: skip
    plain = ExperimentRecord(experiment=make_experiment(5), verdict=Verdict(decision="discard", reason="no gain"))
    with webhook() as (url, got):
        channels, said = told_by(url)
        told = Notifications(channels, tag="mar8")
        told.on_head_gain("autoresearch/mar8", gain(1.05))
        told.on_event("head_moved", branch="autoresearch/mar8", change="QK-norm", expected=1.03)
        told.on_head_gain("autoresearch/mar8", gain(1.03))
        told.on_head_gain("autoresearch/mar8", gain(1.02))  # the same head by one more run
        told.on_event("head_moved", branch="autoresearch/mar8", change="without QK-norm", expected=1.04)
        told.on_head_gain("autoresearch/mar8", gain(1.04))
        for one in (record, alone, plain):
            told.on_verdict(one)
        told.on_worker("cuda:1", "joined")
        told.on_worker("cuda:1", "quarantined", reason="a control was lost, too")
        told.on_event(BUDGET_SPENT, branch="autoresearch/mar8", reason="$20.00 of --max-cost 20 are spent")
        told.on_event("proposal_failed", branch="autoresearch/mar8", reason="429", again_in_s=30.0)
        told.on_event("farm_ended", reason="8 hours have passed")
        told.close()
    assert said == []
    bodies = [one["body"] for one in got]
    assert [one["event"] for one in bodies] == [
        "new_best", "integrity_alarm", "integrity_alarm", "device_quarantined", "budget_spent", "farm_ended",
    ]  # fmt: skip
    assert bodies[0]["head"] == pytest.approx(1.03) and "QK-norm" in bodies[0]["text"] and "1.0300" in bodies[0]["text"]
    assert "mar8-0003" in bodies[1]["text"] and "looked ahead" in bodies[1]["reason"]
    assert bodies[3]["device"] == "cuda:1" and "$20.00" in bodies[4]["text"] and "8 hours" in bodies[5]["text"]


def test_a_command_gets_the_same_as_json(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    (script := tmp_path / "tell.py").write_text(f"import sys\nopen({str(seen)!r}, 'a').write(sys.stdin.read() + chr(10))\n")
    channels, said = told_by(command=f"{shlex.quote(sys.executable)} -S -E {shlex.quote(str(script))}")
    Notifications(channels, tag="mar8").on_event("farm_ended", reason="done")
    channels.close(20.0)
    assert said == [] and json.loads(seen.read_text())["event"] == "farm_ended"


@pytest.mark.parametrize(("url", "shape"), [
    ("https://hooks.slack.com/services/a/b", "slack"), ("https://discord.com/api/webhooks/1/x", "discord"),
    ("https://api.telegram.org/bot1:x/sendMessage?chat_id=7", "telegram"), ("http://127.0.0.1:9/x", "json"),
])  # fmt: skip
def test_a_service_is_known_by_its_host_and_gets_what_it_takes(url: str, shape: str) -> None:
    assert shape_of(url) == shape and checked_url(url, None) == url
    address, body = request_of(shape_of(url), url, {"event": "new_best", "text": "<!channel> @everyone & more" + "x" * 4000})
    assert address == url.partition("?")[0]
    text = str(body.get("text") or body.get("content"))
    assert (len(text) < 2000) == (shape != "json")
    assert "<!" not in text or shape != "slack"
    assert shape != "discord" or body["allowed_mentions"] == {"parse": []}
    assert shape != "telegram" or body["chat_id"] == "7"
    assert shape != "json" or body["event"] == "new_best"


def test_a_shape_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    with pytest.raises(UserError, match="--notify-url"):
        checked_url(None, "slack")
    monkeypatch.setenv(URL_VARIABLE, "https://hooks.slack.com/services/a/b")
    assert checked_url(None, "slack") == "https://hooks.slack.com/services/a/b"


@pytest.mark.parametrize(("broken", "says"), [({"status": 500}, "500"), ({"hangs": True}, "127.0.0.1")])
def test_a_webhook_that_fails_is_one_line_and_nothing_waits(broken: dict[str, Any], says: str) -> None:
    with webhook(**broken) as (url, got):
        channels, said = told_by(url, timeout_s=0.3)
        began = time.monotonic()
        for _ in range(3):
            channels.send({"event": "new_best", "text": "better"})
        assert in_time(began, 0.2)
        channels.close()
    assert len(said) == 1 and says in said[0] and "SECRET" not in said[0] and len(got) == 3


def test_nobody_is_there() -> None:
    channels, said = told_by("http://127.0.0.1:1/SECRET", command="/nowhere/tell")
    channels.send({"text": "better"})
    channels.close()
    assert len(said) == 2 and "--notify:" in said[0] and "127.0.0.1" in said[1] and "SECRET" not in said[1]


def test_the_queue_is_bounded_and_a_farm_ends_without_waiting_for_it() -> None:
    with webhook(hangs=True) as (url, _):
        channels, said = told_by(url, timeout_s=20.0)
        began = time.monotonic()
        for _ in range(300):
            channels.send({"text": "better"})
        channels.close(0.1)
        assert in_time(began, 2) and any("wait already" in line for line in said) and "has ended" in said[-1]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "hooks.slack.com/SECRET", "http://[SECRET", "https://x/SECRET y"])
def test_what_is_no_address_is_refused_without_repeating_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--notify-url") as refused:
        checked_url(url, None)
    assert "SECRET" not in str(refused.value)
    monkeypatch.setenv(URL_VARIABLE, url)
    with pytest.raises(UserError, match=URL_VARIABLE):
        checked_url(None, None)


def test_telegram_is_told_whom_to_tell() -> None:
    with pytest.raises(UserError, match="chat_id"):
        checked_url("https://api.telegram.org/bot1:SECRET/sendMessage", None)
    assert checked_url(None, None) is None
