"""`farm submit`, `farm fetch`: the farm as a job of a Ray cluster, and its results in this checkout."""

import argparse
import sys
import tempfile

from agent.repo.branch_names import check_name
from agent.researchers.make import check_researcher
from cluster.commands.options import check_used
from cluster.farm_options import todays_tag
from cluster.home import FETCHED, JOB_HOME, Home, find_checkout, find_home, git_checkout
from cluster.ray_cluster.fetch import ask_cluster, check_outlives_job, name_of, take, taken_lines
from cluster.ray_cluster.home_archive import pack
from cluster.ray_cluster.jobs import DEFAULT_ADDRESS, Jobs, dashboard_address
from cluster.ray_cluster.submit import about_edits, entrypoint, key_for, what_next
from research.errors import UserError


def submit(options: argparse.Namespace) -> int:
    """Starts the job and prints the commands for it. The exit status is 1 if the job fails at once; with --follow, if
    it doesn't succeed.
    """
    if options.researcher is None:  # a key is sent only where that is asked for
        options = argparse.Namespace(**{**vars(options), "researcher": "search"})
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
    if options.follow:
        return _follow(jobs, job)
    problem = jobs.failed_at_once(job)
    if problem is not None:
        print(f"farm: The job {job} has failed: {problem}", file=sys.stderr)
    return 0 if problem is None else 1


def _follow(jobs: Jobs, job: str) -> int:
    try:
        status = jobs.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\nThe job {job} keeps running.", file=sys.stderr)
        return 130
    print(f"job {job}: {status}" + (f" ({jobs.problem(job)})" if status == "FAILED" else ""))
    return 0 if status == "SUCCEEDED" else 1


def jobs_at(address: str | None, *, missing: Home | None) -> Jobs:
    """The jobs of the cluster at an address. Raises UserError, which also names a home that is `missing` on this machine."""
    try:
        return Jobs(dashboard_address(address))
    except UserError as error:
        if missing is None:
            raise
        raise UserError(f"{missing.folder} is no folder on this machine, so it would be a cluster's: {error}") from None


def fetch(options: argparse.Namespace) -> int:
    """Copies branches into the checkout's repository, and everything else into results/fetched."""
    checkout = git_checkout()
    named = options.home or JOB_HOME
    here = find_home(named)
    if here.folder == checkout / "results" / "data":
        raise UserError(f"{here.folder} is this checkout's own home: there is nothing to fetch.")
    target = Home(checkout / FETCHED / name_of(named))
    is_of_here = options.home is not None and options.address is None and dashboard_address(None) == DEFAULT_ADDRESS
    if is_of_here and here.folder.is_dir() and not here.journal.is_file():
        raise UserError(
            f"{here.folder} on this machine holds no farm: give the --home of one, or the --address of the cluster whose "
            "folder it is."
        )
    with tempfile.TemporaryFile() as archive:
        if options.address is None and here.journal.is_file():
            print(f"from {here.folder} on this machine")
            pack(here, archive, compress=False)
        else:
            archive.write(ask_cluster(jobs_at(options.address, missing=here if is_of_here else None), named, checkout))
        archive.seek(0)
        taken = take(archive, checkout, target)
    for line in taken_lines(taken, checkout, target):
        print(line)
    return 0
