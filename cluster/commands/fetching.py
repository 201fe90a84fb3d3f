"""`farm fetch`: what a farm elsewhere found, into this checkout."""

import argparse
import shlex
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from cluster.commands.cluster import check_outlives_job
from cluster.home import JOB_HOME, Home, find_checkout, find_home
from cluster.ray_cluster.jobs import Jobs, dashboard_address
from cluster.ray_cluster.parcel import pack, printed_parcel, unpack
from research.errors import UserError
from research.text import counted

if TYPE_CHECKING:
    from agent.repo.bundle import Taken

FETCHED = Path("results") / "fetched"


def fetch(options: argparse.Namespace) -> int:
    """Branches into the checkout's repository, the rest under results/fetched."""
    checkout = find_checkout()
    if checkout is None or not (checkout / ".git").exists():
        raise UserError("There is no git checkout here that could take the branches: change to one.")
    named = options.home or JOB_HOME
    here = find_home(named)
    if here.folder == checkout / "results" / "data":
        raise UserError(f"{here.folder} is this checkout's own home: there is nothing to fetch.")
    target = Home(checkout / FETCHED / name_of(named))
    with tempfile.TemporaryFile() as parcel:
        if options.address is None and here.journal.is_file():
            print(f"from {here.folder} on this machine")
            pack(here, parcel, compress=False)
        else:
            parcel.write(ask_cluster(Jobs(dashboard_address(options.address)), named, checkout))
        parcel.seek(0)
        taken = take(parcel, checkout, target)
    for line in taken_lines(taken, checkout, target):
        print(line)
    return 0


def name_of(home: str) -> str:
    """What the fetched copy is called. Raises UserError for a home without a name."""
    name = PurePosixPath(home).name
    if name in ("", "~", ".."):
        raise UserError(f"--home {home} has no name of its own: name the farm's folder.")
    return name


def ask_cluster(jobs: Jobs, home: str, checkout: Path) -> bytes:
    """A home's parcel, printed by a small job on the node where farms run as jobs. Raises UserError."""
    check_outlives_job(home, "--home")
    print(f"from {home} on the cluster at {jobs.address}", flush=True)
    job = jobs.submit(shlex.join(["python3", "-m", "cluster.ray_cluster.parcel", f"--home={home}"]), checkout, {})
    try:
        status = jobs.wait(job)
    except KeyboardInterrupt:
        jobs.stop(job)
        raise
    log = jobs.log(job)
    if status != "SUCCEEDED" and not log:
        raise UserError(f"The job {job} that packs the home {status.lower()}: {jobs.problem(job)}")
    return printed_parcel(log)


def take(parcel: BinaryIO, checkout: Path, target: Home) -> list["Taken"]:
    """Unpacks a parcel beside its place, brings its branches in, then puts it into its place. Raises UserError."""
    from agent.repo.bundle import take_bundle

    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.folder.parent, prefix=f".{target.folder.name}-") as folder:
        fresh = Path(folder) / "home"
        fresh.mkdir()
        bundles = unpack(parcel, fresh)
        if not Home(fresh).journal.is_file():
            raise UserError("The parcel holds no journal: nothing was taken from it.")
        taken = [take_bundle(checkout, bundle) for bundle in bundles]
        for bundle in bundles:
            bundle.unlink()
        Home(fresh).record_repository(checkout)
        replace_folder(fresh, target, aside=Path(folder) / "old")
    return taken


def replace_folder(fresh: Path, target: Home, *, aside: Path) -> None:
    """Puts a whole home into its place at once. Raises UserError where a farm holds the one that is there."""
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
    """What came, where it lies, and what to do with it."""
    branches = [branch for one in taken for branch in one.branches]
    experiments = counted(sum(one.experiments for one in taken), "new experiment")
    lines = [f"branches: {', '.join(branches) or 'none that is new'}; {experiments} (refs/experiments)"]
    for name, instead, why in (aside for one in taken for aside in one.aside):
        lines.append(f"{name}: {why}, so what was fetched is {instead}")
    home = target.folder.relative_to(checkout)
    return [*lines, f"the rest: {home}; look at it with farm report --home {shlex.quote(str(home))}"]
