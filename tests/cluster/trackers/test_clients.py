"""The trackers' own clients, offline. They are extras: `uv run --extra tensorboard ... pytest tests/cluster/trackers`."""

import importlib.util
import sqlite3
from pathlib import Path

import pytest

from cluster.commands.share import track
from cluster.home import Home
from cluster.trackers import sender
from tests.cluster.tiny_checkout import GOOD_LR, Checkout

RUNS = 34


def needs(name: str, module: str) -> pytest.MarkDecorator:
    is_missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(is_missing, reason=f"the client of {name} is an extra: uv sync --extra {name}")


@needs("tensorboard", "tensorboard")
def test_tensorboard_reads_its_event_files(home: Home) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert f"{RUNS} runs sent" in track(home, "tensorboard")
    folder = home.folder / "tensorboard"
    assert len(list(folder.glob("mar8*/*/events*"))) == RUNS
    read = EventAccumulator(str(folder / "mar8" / "mar8-0001-r0"), size_guidance={"tensors": 0})
    read.Reload()
    losses = read.Tensors("train/loss")
    assert len(losses) == 60 and losses[-1].step == 590
    assert read.Tensors("run/val_bpb")[0].tensor_proto.float_val[0] == pytest.approx(1.035, abs=0.005)


@needs("mlflow", "mlflow")
def test_mlflow_has_each_run_once_in_the_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _only_the_first(home)
    track(home, "mlflow")
    (home.folder / "trackers" / "mlflow.json").unlink()
    track(home, "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("autoresearch-farm")
    found = client.search_runs([experiment.experiment_id], max_results=500)
    runs = {run.info.run_name: run for run in found}
    assert len(found) == len(runs) == 4, "two baselines of two runs"
    one = runs["mar8-0000-r0"]
    assert one.data.params["decision"] == "keep" and one.data.metrics["val_bpb"] == pytest.approx(1.042, abs=0.005)
    assert len(client.get_metric_history(one.info.run_id, "train/loss")) == 60 and one.info.status == "FINISHED"


@needs("wandb", "wandb")
def test_wandb_writes_its_runs_offline(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    _only_the_first(home)
    told = track(home, "wandb")
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == int(told.split()[1]) >= 2 and all(path.stat().st_size > 500 for path in files)


@needs("trackio", "trackio")
def test_trackio_has_each_run(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    _only_the_first(home)
    said: list[str] = []
    with sender.tracker_processes(home, ["trackio"], said.append):
        pass
    assert said == []
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as opened:
        names = {name for (name,) in opened.execute("SELECT DISTINCT run_name FROM metrics")}
    assert any(name.startswith("mar8-0000-r0") for name in names)


def _only_the_first(home: Home) -> None:
    """Leaves the beginning of the journal: each run takes these clients a second."""
    lines = home.journal.read_bytes().splitlines(keepends=True)
    kept, verdicts = [], 0
    for line in lines:
        kept.append(line)
        verdicts += b'"kind": "verdict"' in line[:200]
        if verdicts == 2:
            break
    home.journal.write_bytes(b"".join(kept))


@needs("tensorboard", "tensorboard")
def test_a_farm_sends_its_runs_as_they_end(quick_checkout: Checkout) -> None:
    researcher = quick_checkout.script({"title": "learn", "constants": {"LR": GOOD_LR}})
    terms = ("run", "--tag", "night", "--devices", "cpu", "--budget", "1", "--researcher", researcher)
    output = quick_checkout.farm(*terms, "--track", "tensorboard")
    assert "tensorboard:" not in output, "nothing went wrong"
    sent = {path.parent.name for path in (quick_checkout.home / "tensorboard").glob("night*/*/events*")}
    assert {"night-0000-1", "night-0001-1"} <= sent
    assert list((quick_checkout.home / "tensorboard").glob("night-head/events*"))
