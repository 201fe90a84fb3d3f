"""`farm status`, `farm report`, `farm show`, `farm sql`: what is known, while the farm runs and afterwards."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from cluster.client import connect
from cluster.commands.recorded import read_history, record_named
from cluster.home import find_home, home_option
from research.errors import UserError
from research.text import counted
from results.history import BranchHistory
from results.report import morning_report, show_text

if TYPE_CHECKING:
    from results.store import Audience


def status(options: argparse.Namespace) -> int:
    """What runs now, and a line for each branch."""
    home = find_home(options.home)
    client = connect(home)
    running = client.status() if client else None
    try:
        histories = read_history(home)
    except UserError:
        if running is None:
            raise
        histories = []
    if options.json:
        branches = {history.branch.name: _standing(history) for history in histories}
        print(json.dumps({"running": running, "branches": branches}))
        return 0
    if client is None or running is None:
        print(f"No farm is running on {home.folder}.")
    else:
        print(f"A farm is running on {home.folder} (process {client.pid}), tag {running['tag']}.")
        for branch, known in running["loops"].items():
            print(f"  {branch}: {_doing(known)}")
        print(f"  devices: {', '.join(running['devices']) or 'none yet'}")
        if running["waiting"]:
            print(f"  in line: {', '.join(running['waiting'])}")
        for device, reason in running["quarantined"].items():
            print(f"  {device} gets no more work: {reason}")
    for history in histories:
        print(_standing_line(history))
    return 0


def report(options: argparse.Namespace) -> int:
    """The morning report."""
    home = find_home(options.home)
    histories = read_history(home)
    chosen = [history for history in histories if options.tag in (None, history.branch.tag, history.branch.name)]
    if not chosen:
        tags = ", ".join(dict.fromkeys(history.branch.tag for history in histories))
        raise UserError(f"No tag is called {options.tag!r}: there are {tags}.")
    branches = [(history.branch, history.records) for history in chosen]
    print(morning_report(branches, home=home.folder, ask=f"farm sql{home_option(home)}"), end="")
    return 0


def show(options: argparse.Namespace) -> int:
    """Everything on one experiment."""
    home = find_home(options.home)
    print(show_text(record_named(home, read_history(home), options.id)), end="")
    return 0


def sql(options: argparse.Namespace) -> int:
    """One SELECT: asked of the running farm, else of the file."""
    home = find_home(options.home)
    query = sys.stdin.read() if options.query == "-" else options.query
    audience: Audience = "person" if options.audit else "agent"
    client = connect(home)
    if client is not None:
        table = client.sql(query, audience=audience)
    else:
        from results.store import query_home

        table = query_home(home.folder, query, audience=audience)
    print(table.to_json() if options.json else table.to_text().rstrip("\n"))
    return 0


def _doing(known: dict[str, Any]) -> str:
    phase = str(known.get("phase", "starting"))
    if phase != "training":
        return f"{phase} {known.get('title', '')}".strip()
    loss = "" if known.get("loss") is None else f", loss {known['loss']:.3f}"
    return f"training {known.get('title', '')} ({known.get('fraction', 0.0):.0%}{loss})"


def _standing(history: BranchHistory) -> dict[str, Any]:
    """Where a branch stands, for programs."""
    keeps, head = history.keeps, history.head
    return {
        "platform": history.branch.platform,
        "profile": history.branch.profile,
        "experiments": sum(record.is_done for record in history.records),
        "keeps": sum(record.is_done for record in keeps),
        "baseline": keeps[0].val_bpb if keeps else None,
        "best": head.val_bpb if head else None,
        "head": head.experiment.commit if head else None,
    }


def _standing_line(history: BranchHistory) -> str:
    standing = _standing(history)
    name, counts = history.branch.name, f"{counted(standing['experiments'], 'experiment')}, {standing['keeps']} kept"
    if standing["best"] is None:
        return f"{name}: {counts}; no score yet"
    return f"{name}: {counts}; val_bpb {standing['baseline']:.6f} -> {standing['best']:.6f}"
