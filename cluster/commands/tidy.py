"""`farm list` and `farm clean`: what farms have left on this machine, and removing what is no longer needed."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.read_home import history_to_run_on
from cluster.home import Home, find_cache, find_home
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import counted, size

if TYPE_CHECKING:
    from cluster.kept_folders import KeptCache, KeptHome

MOST_BRANCHES = 8
"""Branches of a tag that are listed by name."""


def list_(options: argparse.Namespace) -> int:
    """Prints the homes and caches of this user's farms, with what they hold."""
    from cluster.kept_folders import kept_caches, kept_homes

    homes, caches = kept_homes(find_home(options.home)), kept_caches(find_cache(options.cache))
    if options.json:
        print(json.dumps({"homes": [asdict(one) for one in homes], "caches": [asdict(one) for one in caches]}, default=str))
        return 0
    for home in homes:
        print("\n".join(_home_lines(home)))
    for cache in caches:
        print("\n".join(_cache_lines(cache)))
    if not homes and not caches:
        print("No farm of yours has left anything on this machine.")
    return 0


def _home_lines(home: "KeptHome") -> list[str]:
    state = f"a farm is running ({home.holder})" if home.holder else "no farm is running"
    lines = [f"{home.folder}: {size(home.disk_bytes)}, {state}"]
    for tag in home.tags:
        loops = f", {counted(len(tag.branches), 'branch', 'branches')}" if len(tag.branches) > 1 else ""
        last = f", last {tag.last[:16].replace('T', ' ')} UTC" if tag.last else ""
        lines.append(
            f"  {tag.tag}: {counted(tag.experiments, 'experiment')}, {tag.kept} kept{loops}, {size(tag.disk_bytes)}{last}"
        )
        lines += [f"    {branch}" for branch in tag.branches[:MOST_BRANCHES]]
        more = len(tag.branches) - MOST_BRANCHES
        lines += [f"    and {more} more (--json has them)"] if more > 0 else []
    return lines


def _cache_lines(cache: "KeptCache") -> list[str]:
    return [f"{cache.folder}: prepared data, {size(cache.disk_bytes)}", *(f"  {name}: {size(n)}" for name, n in cache.data)]


def clean(options: argparse.Namespace) -> int:
    """Removes what is no longer needed, after it has listed it and somebody has agreed."""
    from cluster.cleaning import carry_out, plan_cleaning

    home = find_home(options.home)
    if not home.journal.is_file():
        raise UserError(f"Nothing is recorded in {home.folder}: `{to_type('farm list')}` names the homes that there are.")
    is_general = not (options.tags or options.worktrees or options.runs or options.data)
    caches = [find_cache(options.cache)] if options.data else []
    _refuse_beside_a_farm(home, caches)
    with home.lock():
        histories = history_to_run_on(home)
        plan = plan_cleaning(home, histories, tags=options.tags, worktrees=is_general or options.worktrees,
                             runs=is_general or options.runs, caches=caches)  # fmt: skip
        if plan.is_empty:
            print("\n".join([f"There is nothing to remove from {home.folder}.", *plan.lines()]))
            return 0
        print("\n".join([f"From {home.folder} this removes:", *plan.lines()]))
        if not (options.yes or _agrees()):
            print("Nothing was removed. With --yes it is.")
            return 0
        carry_out(home, plan, histories)
    print("Removed.")
    return 0


def _refuse_beside_a_farm(home: Home, caches: list[Path]) -> None:
    """Raises UserError if a farm runs on the home, or any farm that may be reading the prepared data."""
    from cluster.known_folders import known_folders

    home.check_free()
    for other in map(Home, known_folders() if caches else ()):
        if (holder := other.holder()) is not None:
            raise UserError(f"A farm is running on {other.folder} ({holder}), and may read the prepared data: stop it first.")


def _agrees() -> bool:
    """Whether the person at the terminal agrees; False where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input("Remove that? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
