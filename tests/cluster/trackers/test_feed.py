"""What trackers get of a journal: each run once, with its verdict, and nothing that researchers may not see."""

import json
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.share import track
from cluster.home import Home
from cluster.trackers import TRACKERS, clients, sender
from cluster.trackers.feed import TrackerFeed, sending, state_file
from cluster.trackers.tracked import TrackedGain, TrackedRun
from research.errors import UserError
from results.experiment import Verdict
from results.store import Store
from tests.results.result_samples import make_run


class Recorded:
    """A tracker that remembers what it gets, and fails as often as it is told to."""

    def __init__(self, *, failures: int = 0, after: int = 0) -> None:
        self.runs: list[TrackedRun] = []
        self.gains: list[TrackedGain] = []
        self._failures, self._after = failures, after

    def log_run(self, run: TrackedRun) -> None:
        if self._failures and len(self.runs) >= self._after:
            self._failures -= 1
            raise ConnectionError("the network is gone")
        self.runs.append(run)

    def log_gain(self, gain: TrackedGain) -> None:
        self.gains.append(gain)

    def close(self) -> None:
        pass


def test_each_run_is_sent_once_with_curve_figures_and_verdict(home: Home) -> None:
    tracker = Recorded()
    feed = TrackerFeed(home, "wandb", tracker)
    feed.send_on()
    assert len({run.id for run in tracker.runs}) == len(tracker.runs) == feed.sent == 34
    one = next(run for run in tracker.runs if run.name == "mar8-0001-r0")
    assert one.config["decision"] == "keep" and one.config["title"] == "normalise queries and keys before RoPE"
    assert one.config["constants/MATRIX_LR"] == 0.035 and one.group == "mar8" and len(one.curve) == 60
    assert one.summary["val_bpb"] == pytest.approx(1.035, abs=0.005) and one.summary["effect/helps"] == 0.97
    assert sum(run.has_failed for run in tracker.runs) == 3
    (gain,) = tracker.gains
    assert gain.figures["head/val_bpb"] == pytest.approx(1.0140)
    assert "audit" not in repr(tracker.runs) and "1.06" not in str(one.summary), "validation is 1.03, the audit rows 1.06"


def test_what_was_sent_is_not_sent_again_and_what_is_new_is(home: Home) -> None:
    TrackerFeed(home, "wandb", Recorded()).send_on()
    again = Recorded()
    feed = TrackerFeed(home, "wandb", again)
    feed.send_on()
    assert (feed.sent, feed.sent_before, again.runs) == (0, 34, [])
    with Store.open(home.folder) as store:
        store.add_run("mar8-0010", make_run("mar8-0010-r9", 1.01))
        feed.send_on()
        assert again.runs == [], "its verdict is not there yet"
        store.add_verdict("mar8-0010", Verdict(decision="discard", reason="no gain"))
        feed.send_on()
    assert [run.name for run in again.runs] == ["mar8-0010-r9"]
    other = TrackerFeed(home, "mlflow", Recorded())
    other.send_on()
    assert other.sent == 35


def test_of_a_journal_that_is_replaced_what_is_new_is_sent(home: Home) -> None:
    tracker = Recorded()
    feed = TrackerFeed(home, "wandb", tracker)
    feed.send_on()
    lines = home.journal.read_bytes().splitlines(keepends=True)
    shorter = [line for line in lines if b'"run:mar8-0003-r0"' not in line]
    assert len(shorter) == len(lines) - 1
    for name, path in (("while it is followed", home.journal.with_name("other")), ("by one as long", home.journal)):
        path.write_bytes(b"".join(shorter))
        path.replace(home.journal)
        with Store.open(home.folder) as store:
            store.add_run("mar8-0001", make_run(name, 0.99))
            store.add_verdict("mar8-0001", Verdict(decision="keep", reason=name, effect=0.01))
        feed.send_on()
        assert [run.name for run in tracker.runs[34:]][-1] == name
    assert len(tracker.runs) == 36 and len(tracker.gains) == 1
    resumed = Recorded()
    TrackerFeed(home, "wandb", resumed).send_on()
    assert not resumed.runs
    home.journal.write_bytes(b"".join(shorter))
    TrackerFeed(home, "wandb", resumed).send_on()
    assert len(resumed.runs) == 33, "the state is of another journal: each run is sent again under its name"


def test_a_tracker_that_fails_gets_the_rest_later(home: Home) -> None:
    broken = Recorded(failures=2, after=5)
    feed = TrackerFeed(home, "wandb", broken)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            feed.send_on()
    assert json.loads(state_file(home, "wandb").read_text())["records"] > 0
    feed.send_on()
    assert [run.id for run in broken.runs] == list(dict.fromkeys(run.id for run in broken.runs)) and len(broken.runs) == 34


def test_two_processes_do_not_send_the_same(home: Home) -> None:
    with sending(home, "wandb"), sending(home, "mlflow"), pytest.raises(UserError, match="wandb"), sending(home, "wandb"):
        pass


def test_a_client_that_is_not_installed_is_one_line_that_says_how(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: None)
    for name in TRACKERS:
        assert main(["run", "--track", name, "--home", str(home.folder), "--researcher", "search"]) == 2
        assert f"uv sync --extra {name}" in capsys.readouterr().err
        assert main(["export", "--track", name, "--home", str(home.folder)]) == 2
        told = capsys.readouterr().err
        assert f"uv sync --extra {name}" in told and told.count("\n") == 1


def test_a_tracker_that_refuses_ends_an_export_with_one_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = iter([Recorded(failures=1, after=7), Recorded()])
    monkeypatch.setattr(clients, "open_tracker", lambda name, folder: next(opened))
    with pytest.raises(UserError, match=r"took 7 runs.*the network is gone"):
        track(home, "wandb")
    assert "27 runs sent; 7 were sent before" in track(home, "wandb")


def test_a_process_beside_a_farm_ends_with_it_and_tells_what_is_wrong_in_one_line(home: Home, tmp_path: Path) -> None:
    """The client's module is there and can't be imported, as a broken installation is."""
    broken = tmp_path / "site"
    (broken / "trackio").mkdir(parents=True)
    (broken / "trackio" / "__init__.py").write_text("print('hello')\nraise RuntimeError('no such version')\n")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(broken))
        with sender.tracker_processes(home, ["trackio"], said.append):
            pass
    assert len(said) == 1 and said[0].startswith("trackio: ") and "no such version" in said[0]
