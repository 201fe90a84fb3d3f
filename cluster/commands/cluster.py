"""`farm submit`: `farm run` as a job of a Ray cluster."""

import argparse
import os
import shlex
import sys
from pathlib import Path, PurePosixPath

from agent.researchers.make import check_researcher
from cluster.home import JOB_HOME, find_checkout
from cluster.ray_cluster.jobs import MODE_VARIABLE, Jobs, dashboard_address
from research.errors import UserError

KEY = "ANTHROPIC_API_KEY"

OWN_OPTIONS = ("command", "address", "home", "follow")
"""What of the command line isn't for `farm run`."""


def submit(options: argparse.Namespace) -> int:
    """Starts the job and says how to go on. With --follow the exit status is 1 where the job doesn't succeed."""
    check_researcher(options.researcher)
    home = options.home or JOB_HOME
    check_outlives_job(home, "--home")
    check_outlives_job(options.cache or "/", "--cache")
    checkout = find_checkout()
    if checkout is None:
        raise UserError("There is no checkout here to send: change to one.")
    jobs = Jobs(dashboard_address(options.address))
    environment, about_key = key_for(options.researcher)
    for line in (*about_edits(checkout), *about_key):
        print(line, flush=True)
    job = jobs.submit(entrypoint(options, home), checkout, environment)
    for line in what_next(job, home, jobs):
        print(line, flush=True)
    return _follow(jobs, job) if options.follow else 0


def check_outlives_job(folder: str, option: str) -> None:
    """Raises UserError for a folder that would lie in the job's working folder and go with it."""
    if not PurePosixPath(folder).is_absolute() and folder.partition("/")[0] != "~":
        raise UserError(f"{option} {folder} would go when the job's working folder goes: begin it with / or ~/.")


def entrypoint(options: argparse.Namespace, home: str) -> str:
    """The job's command line for a shell. `~` stays as it is: the driver's node expands it."""
    command = ["python3", "-m", "cluster.cli", "run", "--engine=ray", f"--home={home}"]
    for name, value in vars(options).items():
        if name in OWN_OPTIONS or value is None or value is False:
            continue
        option = "--" + name.replace("_", "-")
        command.append(option if value is True else f"{option}={value}")
    return shlex.join(command)


def about_edits(checkout: Path) -> list[str]:
    """The job gets the files as they lie here, without the history that could tell edits from commits."""
    from agent.repo.repository import uncommitted_train_py

    if uncommitted_train_py(checkout) is None:
        return []
    return ["research/train.py is sent as it lies here, with its uncommitted edits."]


def key_for(researcher: str) -> tuple[dict[str, str], list[str]]:
    """What of this shell's environment the job gets, and the lines that say so. The key itself is never printed."""
    if researcher.partition(":")[0] not in ("claude", "command"):
        return {}, []
    key = os.environ.get(KEY)
    if not key:
        return {}, [f"{KEY} is not set here: the job uses that of its node, if there is one."]
    return {KEY: key}, [f"{KEY} goes along in the job's environment: all who reach the cluster's dashboard can read it there."]


def what_next(job: str, home: str, jobs: Jobs) -> list[str]:
    """The job's id, and the commands for it."""
    at = f"--address {jobs.address}"
    named = "" if home == JOB_HOME else f"--home {shlex.quote(home)} "  # quoted: the shell here would expand ~ to its own
    ray = f"{MODE_VARIABLE}=token ray" if jobs.token_found else "ray"
    return [
        f"job {job} at {jobs.address}; its home is {home} on the node that it runs on",
        f"follow  {ray} job logs -f {job} {at}",
        f"stop    {ray} job stop {job} {at}",
        f"fetch   farm fetch {named}{at}",
    ]


def _follow(jobs: Jobs, job: str) -> int:
    try:
        status = jobs.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\nThe job {job} goes on.", file=sys.stderr)
        return 130
    print(f"job {job}: {status}" + (f" ({jobs.problem(job)})" if status == "FAILED" else ""))
    return 0 if status == "SUCCEEDED" else 1
