"""The farm's home: the folder that holds its state, the lock on it, and the log of events."""

import contextlib
import fcntl
import json
import math
import os
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import research
from research.command_hints import to_type
from research.contract import cache_folder
from research.errors import UserError
from research.files import home_folder, not_writable, try_to_write, user_path, write_atomically
from research.formatting import utc_now

HOME_VARIABLE = "FARM_HOME"

JOB_HOME = "~/autoresearch-farm"
"""The default home of a farm that runs as a Ray job. It outlives the job's working folder. The driver's node expands `~`."""

IN_A_CHECKOUT = Path("results") / "data"
"""The default home in a checkout."""

FETCHED = Path("results") / "fetched"
"""The folder of fetched homes in a checkout."""

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""An environment variable that Ray sets for a job's entrypoint, and for nothing else."""


LOCK_TRIES = 5
LOCK_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Home:
    """A folder with all of a farm's state. Its path is absolute, since runs start in other folders."""

    folder: Path

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def duckdb(self) -> Path:
        return self.folder / "farm.duckdb"

    @property
    def parquet(self) -> Path:
        return self.folder / "history.parquet"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def worktrees(self) -> Path:
        return self.folder / "worktrees"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def server_json(self) -> Path:
        """The file with process id, port and token of the running farm."""
        return self.folder / "server.json"

    @property
    def log_file(self) -> Path:
        return self.logs / "farm.log.jsonl"

    @property
    def repositories_json(self) -> Path:
        """The file that lists the git repositories that hold this home's branches."""
        return self.folder / "repositories.json"

    @property
    def lock_file(self) -> Path:
        return self.folder / "farm.lock"

    def check_writable(self) -> None:
        """Raises UserError if the home can't be made or written, which is tried. Nothing is left there."""
        try:
            try_to_write(self.folder)
        except OSError as error:
            raise self._not_writable(error) from None

    def create(self) -> "Home":
        """Creates the folders and returns the home. Raises UserError if they can't be written."""
        try:
            for folder in (self.folder, self.runs, self.worktrees, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from None
        return self

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the home for this process: one farm at a time owns it. The lock ends with the process, however that ends.

        Raises UserError, which names the process that holds it.
        """
        self.create()
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._not_writable(error) from None
        try:
            if not _locked(descriptor, fcntl.LOCK_EX, tries=LOCK_TRIES):
                raise self._held()
            os.ftruncate(descriptor, 0)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def holder(self) -> str | None:
        """The process that holds the home, in words; None if none does."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _locked(descriptor, fcntl.LOCK_SH) else self._named_holder()
        finally:
            os.close(descriptor)

    def holder_pid(self) -> int | None:
        """The id of the process that was the last to hold the home, if it runs on this machine; else None."""
        try:
            holder = json.loads(self.lock_file.read_text())
            return int(holder["pid"]) if holder["host"] == socket.gethostname() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def seconds_held(self) -> float:
        """How long ago a process has last taken the home; infinite if none ever did."""
        try:
            return time.time() - self.lock_file.stat().st_mtime
        except OSError:
            return math.inf

    def check_free(self) -> None:
        """Raises UserError, which names the process that holds it, if a farm runs on this home."""
        if self.holder() is not None:
            raise self._held()

    def _not_writable(self, error: OSError) -> UserError:
        return not_writable("home", self.folder, error, option="--home")

    def _named_holder(self) -> str:
        try:
            holder = json.loads(self.lock_file.read_text())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def _held(self) -> UserError:
        stop, who = to_type(f"farm stop{home_option(self)}"), self._named_holder()
        return UserError(f"A farm is already running on {self.folder} ({who}): stop it ({stop}), or choose another --home.")

    def record_repository(self, repository: Path) -> None:
        """Records a repository that holds branches of this home: by a relative path if inside the home, so that it can move.

        Raises UserError if the home can't be written.
        """
        known = self._recorded()
        inside = repository.resolve().is_relative_to(self.folder.resolve())
        name = str(repository.resolve().relative_to(self.folder.resolve()) if inside else repository.resolve())
        if name in known:
            return
        try:
            write_atomically(self.repositories_json, json.dumps([*known, name]) + "\n", private=True)
        except OSError as error:
            raise self._not_writable(error) from None

    def repositories(self) -> list[Path]:
        """The recorded repositories that still exist."""
        return [self.folder / name for name in self._recorded() if (self.folder / name).is_dir()]

    def _recorded(self) -> list[str]:
        try:
            return [str(name) for name in json.loads(self.repositories_json.read_text())]
        except (OSError, ValueError, TypeError):  # among them PermissionError, in a home that is somebody else's
            return []

    def log_event(self, kind: str, **fields: Any) -> None:
        """Appends one JSON line to the log, in one write, so that lines of several threads don't mix. Raises UserError if the
        log can't be written.
        """
        line = json.dumps({"time": utc_now(), "event": kind, **fields}, default=str) + "\n"
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._not_writable(error) from None

    def last_event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The newest event of a kind in the log that has these fields; empty if there is none."""
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return {}
        for line in reversed(lines):
            with contextlib.suppress(ValueError):  # a line that was cut off
                event = json.loads(line)
                if event | {"event": kind, **fields} == event:
                    return dict(event)
        return {}


def find_home(override: str | Path | None = None, *, start: Path | None = None) -> Home:
    """The farm's home: `override`, else $FARM_HOME, else `~/autoresearch-farm` in a Ray job's working folder, else
    `results/data` of the checkout around `start`, else the user's data folder. Nothing is created.

    Raises UserError if that can't be the path of a folder.
    """
    home = _home(override, start)
    if home.folder.exists() and not home.folder.is_dir():
        what = "a file" if home.folder.is_file() else "no folder"
        raise UserError(f"{home.folder} is {what}, not the folder of a farm: choose another --home.")
    return home


def _home(override: str | Path | None, start: Path | None) -> Home:
    chosen = override or os.environ.get(HOME_VARIABLE) or (JOB_HOME if in_job_working_folder() else None)
    if chosen:
        return Home(user_path(chosen, instead="an absolute path for --home").resolve())
    checkout = find_checkout(start)
    if checkout is not None:
        return Home(checkout / IN_A_CHECKOUT)
    import platformdirs

    folder = user_path(platformdirs.user_data_dir("autoresearch-farm", appauthor=False), instead="--home FOLDER")
    return Home(folder.resolve())


def usual_homes(checkout: Path) -> tuple[Path, ...]:
    """Where farms of this user have their state unless they are told otherwise; some of the folders may not exist."""
    import platformdirs

    of_user = platformdirs.user_data_dir("autoresearch-farm", appauthor=False)
    return (checkout / IN_A_CHECKOUT, checkout / FETCHED, home_folder() / JOB_HOME.removeprefix("~/"), Path(of_user))


def usual_cache() -> Path:
    """Where data is prepared unless a command is told otherwise; the folder may not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("autoresearch-farm", appauthor=False))


def home_option(home: Home) -> str:
    """The text ` --home FOLDER` for a command to paste; empty if the command finds this home without it.

    A job always names it, since its output is read elsewhere.
    """
    if home == find_home() and not inside_job():
        return ""
    return f" --home {shlex.quote(str(home.folder))}"


def inside_job() -> bool:
    """Whether this process is the driver of a Ray job."""
    return JOB_VARIABLE in os.environ


def in_job_working_folder() -> bool:
    """Whether this process is the driver of a Ray job with its own working folder, which is deleted with Ray's session."""
    try:
        job = json.loads(os.environ.get(JOB_VARIABLE, "{}"))
        return bool(job.get("runtime_env", {}).get("working_dir"))
    except (ValueError, AttributeError):  # another version of Ray may write something else there
        return True


def find_cache(override: str | Path | None = None) -> Path:
    """The folder of prepared data, as an absolute path, since runs start in other folders."""
    return cache_folder(override).resolve()


def find_checkout(start: Path | None = None) -> Path | None:
    """The nearest folder from `start` (default: the current one) upwards with research/train.py and program.md, or None."""
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / "research" / "train.py").is_file() and (candidate / "program.md").is_file():
            return candidate
    return None


def git_checkout() -> Path:
    """The checkout around the current folder. Raises UserError if there is none, or it is no git repository."""
    checkout = find_checkout()
    if checkout is None or not (checkout / ".git").exists():
        raise UserError("There is no git checkout here to put branches into: run this inside one.")
    return checkout


def package_folder() -> Path:
    """The folder that holds the farm's own packages: a checkout or site-packages."""
    return Path(research.__file__ or ".").resolve().parent.parent


def _locked(descriptor: int, kind: int, *, tries: int = 1) -> bool:
    """Whether the lock was got. Another command that only looks whether the home is held has it for a moment, hence `tries`."""
    for again in range(tries):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            time.sleep(LOCK_PAUSE_SECONDS if again < tries - 1 else 0.0)
        else:
            return True
    return False
