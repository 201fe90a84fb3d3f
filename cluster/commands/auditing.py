"""`farm audit`: whether gains on validation are there on the audit rows too. For people, not for researchers."""

import argparse

from cluster.commands.recorded import read_history
from cluster.home import Home, find_home
from research.errors import UserError
from results.history import BranchHistory
from results.overfitting import ALARM_STANDARD_ERRORS, measure_overfitting

DIRECTIONS = (
    "  a change below 0 is a gain; the drift is the change on validation less that on audit",
    "  a drift below 0 is bad: validation has gained more than rows that no researcher sees. Above 0 is no harm",
    f"  beyond {ALARM_STANDARD_ERRORS:g} standard errors below 0 it is an alarm",
)
"""How to read the signs."""


def audit(options: argparse.Namespace) -> int:
    """Validation beside audit for each branch. Exit status 1 where one has an alarm."""
    home = find_home(options.home)
    histories = read_history(home)
    wanted = options.branch
    chosen = [history for history in histories if wanted in (None, history.branch.tag, history.branch.name)]
    if not chosen:
        there = ", ".join(dict.fromkeys(history.branch.tag for history in histories))
        raise UserError(f"No branch or tag is called {wanted!r}: there are {there}.")
    texts = [audit_lines(home, history) for history in chosen]
    print("\n\n".join("\n".join(lines) for lines in texts))
    return 1 if any(line.startswith("  ALARM") for lines in texts for line in lines) else 0


def audit_lines(home: Home, history: BranchHistory) -> list[str]:
    """One branch: baseline and head on validation and audit, the drift between them, and an alarm where there is one."""
    name = history.branch.name
    if not history.keeps:
        return [f"{name}: no score yet"]
    baseline, head = history.keeps[0], history.keeps[-1]
    found = measure_overfitting(baseline, head, home.runs)
    if found is None:
        return [f"{name}: its runs have no audit scores"]
    lines = [
        f"{name}: {baseline.experiment.id} -> {head.experiment.id}",
        f"  {'':<10}{'val_bpb':>10}{'audit_bpb':>11}",
        f"  {'baseline':<10}{found.val.baseline:>10.6f}{found.audit.baseline:>11.6f}",
        f"  {'head':<10}{found.val.head:>10.6f}{found.audit.head:>11.6f}",
        f"  {'change':<10}{found.val.change:>+10.6f}{found.audit.change:>+11.6f}",
    ]
    if head is baseline:
        return [*lines, "  drift     none: the baseline stands"]
    if found.standard_error is None:
        lines.append(f"  {'drift':<10}{found.gap:>+10.6f}; how sure is unknown, since not all runs left their rows")
        return [*lines, *DIRECTIONS]
    rows = f"on {found.val.rows} and {found.audit.rows} rows"
    lines.append(f"  {'drift':<10}{found.gap:>+10.6f} +- {found.standard_error:.6f}, {rows}")
    return [*lines, *DIRECTIONS, *([f"  ALARM: {found.alarm}"] if found.alarm else [])]
