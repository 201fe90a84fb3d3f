"""`farm submit`, `farm fetch`: the farm as a job of a Ray cluster, and its results in this checkout."""

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from agent.repo.branch_names import check_name
from agent.researchers.make import CLAUDE_GATEWAY, CLAUDE_KEYS, check_researcher
from cluster.commands.options import check_used
from cluster.farm_options import todays_tag
from cluster.home import JOB_HOME, Home, find_checkout, find_home
from cluster.proxies import LOOPBACK
from cluster.ray_cluster.home_archive import pack, printed_archive, unpack
from cluster.ray_cluster.jobs import MODE_VARIABLE, Jobs, dashboard_address
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import counted

if TYPE_CHECKING:
    from agent.repo.bundle import Taken

OWN_OPTIONS = ("command", "module", "address", "home", "follow")
"""Options that are not passed to `farm run`."""

FETCHED = Path("results") / "fetched"
"""The folder of fetched homes in a checkout."""


def submit(options: argparse.Namespace) -> int:
    """Starts the job and prints the commands for it. With --follow the exit status is 1 if the job doesn't succeed."""
    check_researcher(options.researcher)
    check_used(options)
    check_name(options.tag or todays_tag(), "tag")
    home = options.home or JOB_HOME
    check_outlives_job(home, "--home")
    check_outlives_job(options.cache or "/", "--cache")
    checkout = find_checkout()
    if checkout is None:
        raise UserError("There is no checkout here to send to the cluster: run this inside one.")
    jobs = Jobs(dashboard_address(options.address))
    environment, about_key = key_for(options.researcher)
    for line in (*about_edits(checkout), *about_key):
        print(line, flush=True)
    job = jobs.submit(entrypoint(options, home), checkout, environment)
    for line in what_next(job, home, jobs):
        print(line, flush=True)
    return _follow(jobs, job) if options.follow else 0


def check_outlives_job(folder: str, option: str) -> None:
    """Raises UserError for a folder inside the job's working folder, which is deleted with it."""
    if not PurePosixPath(folder).is_absolute() and folder.partition("/")[0] != "~":
        raise UserError(
            f"{option} {folder} would be deleted with the job's working folder: use a path that begins with / or ~/."
        )


def entrypoint(options: argparse.Namespace, home: str) -> str:
    """The job's command line, quoted for a shell. `~` is kept: the driver's node expands it."""
    command = ["python3", "-m", "cluster.cli", "run", "--engine=ray", f"--home={home}"]
    for name, value in (vars(options) | {"tag": options.tag or todays_tag()}).items():
        if name in OWN_OPTIONS or value is None or value is False or str(value) == "":
            continue
        option = "--" + name.replace("_", "-")
        command.append(option if value is True else f"{option}={value}")
    return shlex.join(command)


def about_edits(checkout: Path) -> list[str]:
    """A line that says that uncommitted edits are sent too, if there are any."""
    from agent.repo.repository import uncommitted_train_py

    if uncommitted_train_py(checkout) is None:
        return []
    return ["research/train.py is sent with its uncommitted edits"]


def key_for(researcher: str) -> tuple[dict[str, str], list[str]]:
    """The environment that the job gets, and the lines that say so. The key itself is never printed."""
    if researcher.partition(":")[0] not in ("claude", "command"):
        return {}, []
    sent = {name: os.environ[name] for name in CLAUDE_KEYS if os.environ.get(name)}
    if not sent:
        return {}, [f"neither {' nor '.join(CLAUDE_KEYS)} is set here: the job uses its node's, if that has one"]
    verb = "is" if len(sent) == 1 else "are"
    reader = "everybody who can reach the cluster's dashboard can read it"
    lines = [f"{' and '.join(sent)} {verb} sent in the job's environment: {reader}"]
    address = os.environ.get(CLAUDE_GATEWAY)
    if address:  # or the gateway's key would go to the public address
        sent[CLAUDE_GATEWAY] = address
        lines.append(f"{CLAUDE_GATEWAY} is sent, too: the job asks {address}{_whose(address)}")
    return sent, lines


def _whose(address: str) -> str:
    """A warning if an address means another machine on the job's node than here; else empty."""
    host = urlsplit(address).hostname
    return ", which on its node is that node itself, not this machine" if host in LOOPBACK else ""


def what_next(job: str, home: str, jobs: Jobs) -> list[str]:
    """The job's id, and the commands to follow, stop and fetch it."""
    at = f"--address {jobs.address}"
    named = "" if home == JOB_HOME else f"--home {shlex.quote(home)} "  # quoted: the shell here would expand ~ to its own
    ray = f"{MODE_VARIABLE}=token {to_type('ray job')}" if jobs.token_found else to_type("ray job")
    return [
        f"job {job} at {jobs.address}; its home is {home} on its node",
        f"follow  {ray} logs -f {job} {at}",
        f"stop    {ray} stop {job} {at}",
        f"fetch   {to_type(f'farm fetch {named}{at}')}",
    ]


def _follow(jobs: Jobs, job: str) -> int:
    try:
        status = jobs.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\nThe job {job} keeps running.", file=sys.stderr)
        return 130
    print(f"job {job}: {status}" + (f" ({jobs.problem(job)})" if status == "FAILED" else ""))
    return 0 if status == "SUCCEEDED" else 1


def fetch(options: argparse.Namespace) -> int:
    """Copies branches into the checkout's repository, and everything else into results/fetched."""
    checkout = find_checkout()
    if checkout is None or not (checkout / ".git").exists():
        raise UserError("There is no git checkout here to put branches into: run this inside one.")
    named = options.home or JOB_HOME
    here = find_home(named)
    if here.folder == checkout / "results" / "data":
        raise UserError(f"{here.folder} is this checkout's own home: there is nothing to fetch.")
    target = Home(checkout / FETCHED / name_of(named))
    with tempfile.TemporaryFile() as archive:
        if options.address is None and here.journal.is_file():
            print(f"from {here.folder} on this machine")
            pack(here, archive, compress=False)
        else:
            archive.write(ask_cluster(Jobs(dashboard_address(options.address)), named, checkout))
        archive.seek(0)
        taken = take(archive, checkout, target)
    for line in taken_lines(taken, checkout, target):
        print(line)
    return 0


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
    from agent.repo.bundle import take_bundle

    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.folder.parent, prefix=f".{target.folder.name}-") as folder:
        fresh = Path(folder) / "home"
        fresh.mkdir()
        bundles = unpack(archive, fresh)
        if not Home(fresh).journal.is_file():
            raise UserError(
                "What was fetched holds no journal, so nothing was taken from it: check that --home is a farm's home."
            )
        taken = [take_bundle(checkout, bundle) for bundle in bundles]
        for bundle in bundles:
            bundle.unlink()
        Home(fresh).record_repository(checkout)
        replace_folder(fresh, target, aside=Path(folder) / "old")
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
    branches = [branch for one in taken for branch in one.branches]
    experiments = counted(sum(one.experiments for one in taken), "new experiment")
    lines = [f"branches: {', '.join(branches) or 'none new'}; {experiments} (refs/experiments)"]
    for name, instead, why in (aside for one in taken for aside in one.aside):
        lines.append(f"{name}: {why}, so the fetched one is called {instead}")
    home = target.folder.relative_to(checkout)
    return [*lines, f"home: {home}; look at it with: {to_type(f'farm report --home {shlex.quote(str(home))}')}"]
