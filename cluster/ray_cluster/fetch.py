"""What `farm fetch` brings into a checkout: the branches of a job's home, and the home itself. Doesn't import ray."""

import shlex
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from agent.repo.branch_names import EXPERIMENT_REFS
from cluster.home import Home
from cluster.ray_cluster.home_archive import printed_archive, unpack
from cluster.ray_cluster.jobs import Jobs
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import counted

if TYPE_CHECKING:
    from agent.repo.bundle import Taken


def check_outlives_job(folder: str, option: str) -> None:
    """Raises UserError for a folder inside the job's working folder, which is deleted with it."""
    if not PurePosixPath(folder).is_absolute() and folder.partition("/")[0] != "~":
        raise UserError(
            f"{option} {folder} would be deleted with the job's working folder: use a path that begins with / or ~/."
        )


def name_of(home: str) -> str:
    """The name of the fetched copy. Raises UserError for a home whose path ends without a name."""
    name = PurePosixPath(home).name
    if name in ("", "~", ".."):
        raise UserError(f"--home {home} must end with the name of the farm's folder.")
    return name


def ask_cluster(jobs: Jobs, home: str, checkout: Path) -> bytes:
    """A home's archive, which a small job prints on the node where farms run as jobs. Raises UserError."""
    check_outlives_job(home, "--home")
    print(f"from {home} on the cluster at {jobs.address}", flush=True)
    job = jobs.submit(shlex.join(["python3", "-m", "cluster.ray_cluster.home_archive", f"--home={home}"]), checkout, {})
    try:
        status = jobs.wait(job)
    except KeyboardInterrupt:
        jobs.stop(job)
        raise
    log = jobs.log(job)
    if status != "SUCCEEDED" and not log:
        raise UserError(f"The job {job} that packs the home {status.lower()}: {jobs.problem(job)}")
    return printed_archive(log)


def take(archive: BinaryIO, checkout: Path, target: Home) -> list["Taken"]:
    """Unpacks an archive next to its target, adds its branches to the checkout, then moves it into place. Raises UserError."""
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.folder.parent, prefix=f".{target.folder.name}-") as folder:
        fresh = Path(folder) / "home"
        fresh.mkdir()
        return place(fresh, unpacked(archive, fresh), checkout, target, aside=Path(folder) / "old")


def unpacked(archive: BinaryIO, fresh: Path, *, cure: str = "fetch again") -> list[Path]:
    """Unpacks a home into an empty folder and returns the bundles in it. Raises UserError if it is no home, or is damaged, of
    which `cure` is what to do.
    """
    bundles = unpack(archive, fresh, cure=cure)
    if not Home(fresh).journal.is_file():
        raise UserError("The archive holds no journal, so nothing was taken from it: check that it is a farm's home.")
    return bundles


def place(fresh: Path, bundles: list[Path], checkout: Path, target: Home, *, aside: Path) -> list["Taken"]:
    """Adds the branches of an unpacked home to the checkout, then moves the home into place. Raises UserError."""
    from agent.repo.bundle import take_bundle

    taken = [take_bundle(checkout, bundle) for bundle in bundles]
    for bundle in bundles:
        bundle.unlink()
    Home(fresh).record_repository(checkout)
    replace_folder(fresh, target, aside=aside)
    return taken


def replace_folder(fresh: Path, target: Home, *, aside: Path) -> None:
    """Moves a whole home into place at once. Raises UserError if a running farm holds the home that is there."""
    if not target.folder.exists():
        fresh.rename(target.folder)
        return
    with target.lock():
        target.folder.rename(aside)
        try:
            fresh.rename(target.folder)
        except OSError:
            aside.rename(target.folder)
            raise


def taken_lines(taken: list["Taken"], checkout: Path, target: Home) -> list[str]:
    """The lines that say what was fetched, where it is, and how to look at it."""
    home = target.folder.relative_to(checkout)
    look = to_type(f"farm report --home {shlex.quote(str(home))}")
    return [*branch_lines(taken), f"home: {home}; look at it with: {look}"]


def branch_lines(taken: list["Taken"]) -> list[str]:
    """The lines that say which branches and experiments are new here, and which have another name than where they come from."""
    branches = [branch for one in taken for branch in one.branches]
    experiments = counted(sum(one.experiments for one in taken), "new experiment")
    lines = [f"branches: {', '.join(branches) or 'none new'}; {experiments} ({EXPERIMENT_REFS})"]
    for name, instead, why in (aside for one in taken for aside in one.aside):
        lines.append(f"{name}: {why}, so the fetched one is called {instead}")
    return lines
