"""What `farm submit` sends to a Ray cluster: the job's command line, and the keys of its researcher. Doesn't import ray."""

import argparse
import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from agent.researchers.coding_agents import AGENTS, keys_of_all
from agent.researchers.make import CLAUDE_GATEWAY, CLAUDE_KEYS
from agent.researchers.mix import ACP, kinds_in
from cluster.farm_options import todays_tag
from cluster.home import JOB_HOME
from cluster.parser_parts import words_for
from cluster.proxies import LOOPBACK
from cluster.ray_cluster.jobs import MODE_VARIABLE, Jobs
from research.command_hints import to_type

OWN_OPTIONS = ("command", "module", "address", "home", "follow")
"""Options that are not passed to `farm run`."""


def entrypoint(options: argparse.Namespace, home: str) -> str:
    """The job's command line, quoted for a shell. `~` is kept: the driver's node expands it."""
    command = ["python3", "-m", "cluster.cli", "run", "--engine=ray", f"--home={home}"]
    tagged = argparse.Namespace(**{**vars(options), "tag": options.tag or todays_tag()})
    return shlex.join([*command, *words_for(tagged, without=OWN_OPTIONS)])


def about_edits(checkout: Path) -> list[str]:
    """A line that says that edits are sent too: uncommitted ones, or whatever is in a folder that git doesn't know."""
    from agent.repo.repository import START_GIT, TRAIN_FILE, committed_around, train_py_to_try

    committed = committed_around(checkout)
    if committed is None:
        told = f"{TRAIN_FILE} is sent as it is now, edits included: git has no committed one here to tell them from"
        return [f"{told}, and farm fetch will need a git checkout; `{START_GIT}` makes one"]
    is_edited = train_py_to_try(checkout) != committed.replace("\r\n", "\n")
    return [f"{TRAIN_FILE} is sent with its uncommitted edits"] if is_edited else []


def key_for(researcher: str) -> tuple[dict[str, str], list[str]]:
    """The environment that the job gets, and the lines that say so. The key itself is never printed."""
    names = tuple(dict.fromkeys(name for kind in kinds_in(researcher) for name in _keys_of(kind)))
    if not names:
        return {}, []
    sent = {name: os.environ[name] for name in names if os.environ.get(name)}
    if not sent:
        return {}, [f"neither {' nor '.join(names)} is set here: the job uses its node's, if that has one"]
    verb = "is" if len(sent) == 1 else "are"
    reader = "everybody who can reach the cluster's dashboard can read it"
    lines = [f"{' and '.join(sent)} {verb} sent in the job's environment: {reader}"]
    address = os.environ.get(CLAUDE_GATEWAY)
    if address and not set(sent).isdisjoint(CLAUDE_KEYS):  # or the gateway's key would go to the public address
        sent[CLAUDE_GATEWAY] = address
        lines.append(f"{CLAUDE_GATEWAY} is sent, too: the job asks {address}{_whose(address)}")
    return sent, lines


def _keys_of(kind: str) -> tuple[str, ...]:
    """The environment variables with the keys that a kind of researcher can use."""
    if kind in AGENTS:
        return AGENTS[kind].keys or keys_of_all()
    if kind == ACP:
        return keys_of_all()
    return CLAUDE_KEYS if kind in ("claude", "command") else ()


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
