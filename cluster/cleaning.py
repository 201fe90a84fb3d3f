"""What `farm clean` removes from a home: said first, then done, while this process holds the home."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.repo.branch_names import branch_name, worktree_folder
from agent.repo.removal import delete_refs, files_of_a_person, keep_in_bundle, refs_of, remove_worktree
from agent.repo.worktree import branch_exists, checked_out_branches
from cluster.home import Home
from cluster.kept_folders import data_folders, disk_bytes
from cluster.results_files import RESULTS_TSV
from research.errors import UserError
from research.files import free_beside, remove_tree
from research.formatting import counted, size
from results import journal_index, told
from results.experiment import ExperimentRecord
from results.history import BranchHistory
from results.journal_removal import take_out
from results.tsv import rows_of_others

ENDED = ("discard", "crash", "invalid", "lost")
"""How experiments end whose run folders nothing needs any more."""

REMOVED = "removed"
"""The folder in a home for what a removed tag leaves: its records, and its commits as a git bundle."""


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is removed, and what stays although it was asked for."""

    worktrees: tuple[tuple[Path | None, Path], ...] = ()
    """Each worktree's repository, if it is known, and its folder."""
    runs: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    tags: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    """What stays and why, one line each."""

    def lines(self) -> list[str]:
        """What would be removed, in words, with its disk space."""
        folders = {
            "worktree": [folder for _, folder in self.worktrees],
            "run folder": list(self.runs),
            "prepared data set": list(self.data),
        }
        lines = [
            f"  {counted(len(paths), what)}, {size(sum(map(disk_bytes, paths)))}" for what, paths in folders.items() if paths
        ]
        lines += [f"  tag {tag}: its branches, its commits and its records of the journal, which are kept in {REMOVED}/"
                  for tag in self.tags]  # fmt: skip
        return [*lines, *(f"  stays: {line}" for line in self.stays)]

    @property
    def is_empty(self) -> bool:
        return not (self.worktrees or self.runs or self.data or self.tags)


def plan_cleaning(home: Home, histories: Sequence[BranchHistory], *, tags: Collection[str], worktrees: bool, runs: bool,
                  caches: Collection[Path]) -> Cleaning:  # fmt: skip
    """What is to be removed: of named tags all, of the others what was asked for. Raises UserError for an unknown tag, and for
    one with a branch that a person has checked out.
    """
    known = {history.branch.tag for history in histories}
    if unknown := sorted(set(tags) - known):
        raise UserError(f"There is no tag {unknown[0]!r} in {home.folder}: there are {', '.join(sorted(known)) or 'none'}.")
    named = [history for history in histories if history.branch.tag in tags]
    chosen = list(histories) if worktrees else named
    _refuse_checked_out(home, named)
    found = list(_worktrees(home, chosen))
    for tag, _, folder, why in found:
        if why and tag in tags:
            raise UserError(f"A tag that holds work of yours can't be removed: {folder} stays, since {why}.")
    return Cleaning(
        worktrees=tuple((repo, folder) for _, repo, folder, why in found if not why),
        runs=tuple(_run_folders(home, histories, tags, of_all=runs)),
        data=tuple(folder for cache in caches for folder in data_folders(cache)),
        tags=tuple(dict.fromkeys(history.branch.tag for history in named)),
        stays=tuple(f"{folder}, since {why}" for _, _, folder, why in found if why),
    )


def _refuse_checked_out(home: Home, named: Sequence[BranchHistory]) -> None:
    """Raises UserError if a branch that is to be removed is checked out elsewhere than in the farm's own worktree."""
    for repo in home.repositories() if named else []:
        own = {history.branch.name for history in named if worktree_folder(home.folder, history.branch.name).exists()}
        wanted = {name for history in named for name in (history.branch.name, branch_name(history.branch.tag))}
        for branch in sorted(wanted & checked_out_branches(repo) - own):
            raise UserError(f"{branch} is checked out: switch to another branch there first, as by `git switch -`.")


def _worktrees(home: Home, histories: Sequence[BranchHistory]) -> Iterator[tuple[str, Path | None, Path, str]]:
    """The tag, repository and folder of each worktree, and why it stays; that is empty if it can be removed."""
    repositories = home.repositories()
    for history in histories:
        folder, branch = worktree_folder(home.folder, history.branch.name), history.branch.name
        if not folder.is_dir():
            continue
        repo = next((repo for repo in repositories if branch_exists(repo, branch)), None)
        theirs = files_of_a_person(folder)
        rows = rows_of_others([folder / RESULTS_TSV], history.outlines)
        why = f"it holds {', '.join(theirs[:3])}{' and more' if len(theirs) > 3 else ''}" if theirs else ""
        yield history.branch.tag, repo, folder, why or ("its results.tsv has rows that no record explains" if rows else "")


def _run_folders(home: Home, histories: Sequence[BranchHistory], tags: Collection[str], *, of_all: bool) -> list[Path]:
    """The run folders of these tags. With `of_all` also those that no record names, and those that nothing needs: neither a
    head, a baseline, a keep nor an experiment under way.
    """
    of_heads = {id for one in histories for head in one.group.heads for id in (head.experiment_id, *head.patches)}
    goes = {
        run.run_id: history.branch.tag in tags or (of_all and _is_over(record, of_heads))
        for history in histories
        for record in history.records
        for run in record.runs
    }
    there = sorted(path for path in home.runs.iterdir() if path.is_dir()) if home.runs.is_dir() else []
    return [path for path in there if goes.get(path.name, of_all)]


def _is_over(record: ExperimentRecord, of_heads: Collection[str]) -> bool:
    """Whether nothing needs the run folders of an experiment any more."""
    is_kept = record.experiment.kind == "baseline" or record.experiment.id in of_heads
    return record.verdict is not None and record.verdict.decision in ENDED and not is_kept


def carry_out(home: Home, plan: Cleaning, histories: Sequence[BranchHistory]) -> None:
    """Removes what a plan says. The home must be held by this process. A call that was cut off can be repeated."""
    for repo, folder in plan.worktrees:
        remove_worktree(repo, folder)
    for tag in plan.tags:
        _remove_refs(home, tag, [history for history in histories if history.branch.tag == tag])
    for path in (*plan.runs, *plan.data):
        remove_tree(path)
    for tag in plan.tags:
        take_out(home.journal, tag, _free(home, f"{tag}.jsonl"))
    if plan.tags:  # views of the journal, which are made anew
        from results.database import database_files
        from results.saved_states import FILE as GROUP_STATES

        caches = [home.folder / name for name in (journal_index.FILE, told.FILE, GROUP_STATES)]
        for file in (*database_files(home.duckdb), home.parquet, *caches):
            file.unlink(missing_ok=True)


def _remove_refs(home: Home, tag: str, histories: Sequence[BranchHistory]) -> None:
    """Deletes the refs of a tag, once their commits are in a bundle."""
    branches = {*(history.branch.name for history in histories), branch_name(tag)}
    experiments = {outline.experiment.id for history in histories for outline in history.outlines}
    for repo in home.repositories():
        refs = refs_of(repo, branches, experiments)
        if refs:
            keep_in_bundle(repo, refs, _free(home, f"{tag}.bundle"))
            delete_refs(repo, refs)


def _free(home: Home, name: str) -> Path:
    """The path for something that a removed tag leaves, under a name that nothing has yet."""
    folder = home.folder / REMOVED
    folder.mkdir(exist_ok=True)
    path = folder / name
    return free_beside(path) if path.exists() else path
