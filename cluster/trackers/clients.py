"""The trackers' own clients behind one interface. Each is imported when it is used, since it is an extra."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cluster.trackers import TRACKERS
from cluster.trackers.tracked import TrackedGain, TrackedRun
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import one_line

PROJECT = "autoresearch-farm"
"""The project, or experiment, that runs are in, unless the tracker's own environment variable names another."""

MODULES: Mapping[str, str] = {
    "trackio": "trackio",
    "wandb": "wandb",
    "tensorboard": "tensorboard.summary",
    "mlflow": "mlflow.tracking",
}
"""The module of each tracker's client."""


class Tracker(Protocol):
    """One tracker. Its methods raise whatever its client raises."""

    def log_run(self, run: TrackedRun) -> None:
        """Sends a run; one that was sent before is not doubled where the tracker can tell."""

    def log_gain(self, gain: TrackedGain) -> None:
        """Sends a point of a head's gain."""

    def close(self) -> None:
        """Ends what is still open."""


def open_tracker(name: str, home: Path) -> Tracker:
    """The tracker of this name. Raises UserError if its client is not installed."""
    check_installed(name)
    client = importlib.import_module(MODULES[name])
    makers: Mapping[str, Callable[[], Tracker]] = {
        "trackio": lambda: WandbLike(client, _trackio_options(), has_summary=False),
        "wandb": lambda: WandbLike(client, _wandb_options(client), has_summary=True),
        "tensorboard": lambda: EventFiles(client, home / "tensorboard"),
        "mlflow": lambda: Mlflow(client.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or _mlflow_database(home))),
    }
    return makers[name]()


def check_installed(name: str) -> None:
    """Raises UserError if a tracker's client is not installed. Imports none of it: that can take seconds."""
    if name not in TRACKERS:
        raise UserError(f"No tracker is called {name!r}: there are {', '.join(TRACKERS)}.")
    if importlib.util.find_spec(MODULES[name].partition(".")[0]) is None:
        raise UserError(f"--track {name} needs its client, which is an extra: {to_type(f'uv sync --extra {name}')}.")


def error_in_words(error: Exception) -> str:
    """What a client has raised, in one line: each has its own exceptions."""
    return one_line(f"{type(error).__name__}: {error}", 200)


def _mlflow_database(home: Path) -> str:
    """Where MLflow writes if nothing else is named; its own default is a file of the current folder."""
    return f"sqlite:///{home.resolve() / 'mlflow.db'}"


def _trackio_options() -> dict[str, Any]:
    return {
        "project": os.environ.get("TRACKIO_PROJECT") or PROJECT,
        "embed": False,
        "auto_log_gpu": False,
        "auto_log_cpu": False,
    }


def _wandb_options(client: Any) -> dict[str, Any]:
    settings = client.Settings(silent=True, console="off", x_disable_stats=True)
    return {"project": os.environ.get("WANDB_PROJECT") or PROJECT, "settings": settings, "reinit": "create_new"}


class WandbLike:
    """Weights & Biases, and Trackio, whose interface is the same but for summaries and ids."""

    def __init__(self, client: Any, options: Mapping[str, Any], *, has_summary: bool) -> None:
        self._client, self._options, self._has_summary = client, options, has_summary
        self._heads: dict[str, Any] = {}

    def log_run(self, run: TrackedRun) -> None:
        opened = self._init(run.id, run.name, run.group, dict(run.config))
        for step, figures in run.curve:
            opened.log(dict(figures), step=step)
        if self._has_summary:
            opened.summary.update(dict(run.summary))
            opened.finish(exit_code=int(run.has_failed))
        else:
            opened.log(dict(run.summary), step=run.curve[-1][0] + 1 if run.curve else 0)
            opened.finish()

    def log_gain(self, gain: TrackedGain) -> None:
        if gain.id not in self._heads:
            self._heads[gain.id] = self._init(gain.id, gain.name, gain.group, {"kind": "head"})
        self._heads[gain.id].log(dict(gain.figures), step=gain.step)

    def close(self) -> None:
        for opened in self._heads.values():
            opened.finish()
        self._heads.clear()

    def _init(self, id: str, name: str, group: str, config: dict[str, Any]) -> Any:
        named = {"id": id, "name": name} if self._has_summary else {"name": id}
        return self._client.init(**named, group=group, config=config, resume="allow", **self._options)


class EventFiles:
    """TensorBoard's event files, a folder for each run."""

    def __init__(self, client: Any, folder: Path) -> None:
        self._client, self._folder = client, folder
        self._heads: dict[str, Any] = {}

    def log_run(self, run: TrackedRun) -> None:
        folder = self._folder / run.group.replace("/", "-") / run.name
        if any(folder.glob("events*")):  # it was sent before
            return
        writer = self._client.Writer(str(folder))
        for step, figures in run.curve:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
        about = "; ".join(f"{name}: {value}" for name, value in run.config.items())
        number = int(run.config["number"])
        for name, value in run.summary.items():  # by the number of the experiment, so that runs form a curve
            writer.add_scalar(f"run/{name}", value, number, description=about)
        writer.close()

    def log_gain(self, gain: TrackedGain) -> None:
        if gain.id not in self._heads:
            self._heads[gain.id] = self._client.Writer(str(self._folder / gain.name.replace("/", "-")))
        for name, value in gain.figures.items():
            self._heads[gain.id].add_scalar(name, value, gain.step)
        self._heads[gain.id].flush()

    def close(self) -> None:
        for writer in self._heads.values():
            writer.close()
        self._heads.clear()


class Mlflow:
    """MLflow, at whatever $MLFLOW_TRACKING_URI names, else in the home."""

    ID = "autoresearch_farm.id"
    """The tag by which a run is found that was sent before."""

    BATCH = 1_000
    """Figures per request, which is MLflow's limit."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._experiment: str | None = None
        self._heads: dict[str, str] = {}

    def log_run(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param

        if self._found(run.id) is not None:
            return
        id = self._create(run.id, run.name, run.group)
        self._client.log_batch(id, params=[Param(name, str(value)) for name, value in run.config.items()])
        figures = [Metric(name, value, 0, step) for step, found in run.curve for name, value in found.items()]
        figures += [Metric(name, value, 0, 0) for name, value in run.summary.items()]
        for first in range(0, len(figures), self.BATCH):
            self._client.log_batch(id, metrics=figures[first : first + self.BATCH])
        self._client.set_tag(id, self.ID, run.id)  # only now: one that was cut off is sent again
        self._client.set_terminated(id, "FAILED" if run.has_failed else "FINISHED")

    def log_gain(self, gain: TrackedGain) -> None:
        from mlflow.entities import Metric

        if gain.id not in self._heads:
            found = self._found(gain.id)
            self._heads[gain.id] = found or self._create(gain.id, gain.name, gain.group)
            self._client.set_tag(self._heads[gain.id], self.ID, gain.id)
        figures = [Metric(name, value, 0, gain.step) for name, value in gain.figures.items()]
        self._client.log_batch(self._heads[gain.id], metrics=figures)

    def close(self) -> None:
        for id in self._heads.values():
            self._client.set_terminated(id, "FINISHED")
        self._heads.clear()

    def _in(self) -> str:
        if self._experiment is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            known = self._client.get_experiment_by_name(name)
            self._experiment = str(known.experiment_id if known is not None else self._client.create_experiment(name))
        return self._experiment

    def _found(self, id: str) -> str | None:
        runs = self._client.search_runs([self._in()], f"tags.`{self.ID}` = '{id}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, id: str, name: str, group: str) -> str:
        return str(self._client.create_run(self._in(), run_name=name, tags={"group": group}).info.run_id)
