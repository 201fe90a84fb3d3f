"""Reads a home's history for commands. The errors name the command that helps, with its --home."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.home import Home, home_option
from cluster.local_api import connect
from research.command_hints import to_type
from research.errors import FarmEnded, UserError
from results import history
from results.experiment import ExperimentRecord
from results.history import BranchHistory
from results.journal import DamagedLine
from results.journal_damage import check_whole, damage_in_words, repair_hint

if TYPE_CHECKING:
    from results.query import Table
    from results.tables import Audience

MOST_ROWS = 10_000_000
"""Rows of a result that is written in full; its reader's memory ends before."""

FIRST_ROWS, SHORT_SECONDS = 1000, 10.0
"""Rows of a result that is printed, and how long its query may take."""

LONGEST_SECONDS = 600.0
"""How long a query whose result is written in full may take."""


def read_history(home: Home) -> list[BranchHistory]:
    """All branches of a home, the one with the newest experiment last; after it the branch that is checked out here, or those
    whose head that is, so that a command without a name means what one works on. Raises UserError if nothing is recorded or the
    home can't be read.
    """
    damaged: list[DamagedLine] = []
    try:
        found = history.read_history(home.journal, on_damage=damaged.append)
    except OSError as error:
        raise UserError(f"{home.journal} can't be read ({error.strerror}): ask its owner, or choose another --home.") from None
    if damaged:
        follows = "and is missing in what follows" if found else "and no branch is left"
        told = f"{damage_in_words(home.journal, damaged)}, {follows}: {repair_hint(home_option(home))}"
        if not found:
            raise UserError(told)
        print(f"farm: {told}", file=sys.stderr)
    if not found:
        demo, run, by_hand = (to_type(f"farm {name}{home_option(home)}") for name in ("demo", "run", "try"))
        starts = f"`{demo}`, `{run}` or, with an edit of your own, `{by_hand}` starts a history"
        raise UserError(f"Nothing is recorded in {home.folder} yet: {starts}.")
    here = checked_out_here()
    return sorted(found, key=lambda history: here in (history.branch.name, history.group.name))


def history_to_run_on(home: Home) -> list[BranchHistory]:
    """All branches of a home on which something is to be run; none if nothing is recorded.

    Raises UserError if a line of its journal is damaged from which anything may follow: it may be that of a branch.
    """
    damaged: list[DamagedLine] = []
    try:
        found = history.read_history(home.journal, on_damage=damaged.append)
    except OSError:
        return []
    check_whole(home.journal, damaged, home_option=home_option(home))
    return found


def history_meant(histories: list[BranchHistory], name: str | None) -> BranchHistory:
    """The branch that a command with or without a name means. Says on stderr if the branch that is checked out here is another,
    since that has no score yet. Raises UserError.
    """
    found, here = history.branch_named(histories, name), checked_out_here()
    last = histories[-1]  # the one that is checked out, as read_history sorts them
    if name is None and here in (last.branch.name, last.group.name) and last.branch.tag != found.branch.tag:
        print(f"farm: {here}, which is checked out here, has no score yet: this is {found.branch.name}.", file=sys.stderr)
    return found


def checked_out_here() -> str | None:
    """The branch that is checked out around the current folder, as git's own file says; None if there is none.

    Asking git would take longer than all else that short commands do.
    """
    try:
        here = Path.cwd()
        git = next((folder / ".git" for folder in (here, *here.parents) if (folder / ".git").exists()), None)
        if git is None:
            return None
        if git.is_file():  # a worktree's
            git = git.parent / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
    except (OSError, UnicodeDecodeError):  # the folder is gone, or is somebody else's
        return None
    return head.removeprefix("ref: refs/heads/") if head.startswith("ref: refs/heads/") else None


def record_named(home: Home, histories: list[BranchHistory], name: str, *, or_branch: bool = False) -> ExperimentRecord:
    """The experiment that `name` stands for, by the rules of `experiment_named`. Raises UserError."""
    return history.experiment_named(histories, name, ask=to_type(f"farm sql{home_option(home)}"), or_branch=or_branch)


def branch_asked(home: Home, histories: list[BranchHistory], tag: str | None) -> BranchHistory:
    """The branch of which something is asked: without a tag that of the farm that is running, else as `branch_named` has it.

    Says which tag that is where another branch is checked out here. Raises UserError.
    """
    by_default = None if tag is not None else history.branch_named(histories, None)
    client = connect(home) if by_default is not None else None
    if by_default is None or client is None:
        return by_default or history.branch_named(histories, tag)
    running = str(client.status().get("tag") or by_default.branch.tag)
    if running == by_default.branch.tag:
        return by_default
    if not history.names_a_branch(histories, running):
        raise UserError(f"A farm is just starting with the tag {running}: try again in a moment, or name another --tag.")
    print(
        f"tag {running}, with which a farm is running here; --tag {by_default.branch.tag} means the other one", file=sys.stderr
    )
    return history.branch_named(histories, running)


def query_history(home: Home, sql: str, *, audience: "Audience") -> "Table":
    """The answer to one SELECT, from the farm that runs on a home or else from its database file. Raises UserError."""
    client = connect(home)
    if client is not None:
        with contextlib.suppress(FarmEnded):
            return client.sql(sql, audience=audience)
    elif home.holder() is not None:  # one that is starting, or hangs
        return query_in_full(home, sql, audience=audience, max_rows=FIRST_ROWS, timeout_s=SHORT_SECONDS)
    from results.store import query_home

    return query_home(home.folder, sql, audience=audience, home_option=home_option(home))


def query_in_full(
    home: Home, sql: str, *, audience: "Audience", max_rows: int = MOST_ROWS, timeout_s: float = LONGEST_SECONDS
) -> "Table":
    """All rows of one SELECT up to a limit, with DuckDB's types, from the home's journal, also while a farm writes there.

    Raises UserError.
    """
    from results.query_server import JournalTables
    from results.store import check_recorded

    check_recorded(home.folder, home_option=home_option(home))
    try:
        tables = JournalTables(home.journal)
    except OSError as error:
        raise UserError(f"{home.journal} can't be read ({error.strerror}): ask its owner, or choose another --home.") from None
    if tables.damaged:
        print(f"farm: {damage_in_words(home.journal, tables.damaged)}: {repair_hint(home_option(home))}", file=sys.stderr)
    return tables.table(sql, max_rows=max_rows, timeout_s=timeout_s, audience=audience)
