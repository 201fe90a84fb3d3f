"""Git for a research loop: a branch, candidate commits that change train.py alone, and keeps.

A candidate is committed without being checked out, under its own ref, so that a discard has nothing to undo and many
loops can commit at once. The branch moves only in `advance`, on a keep.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.repo.branch_names import PREFIX, branch_of_ref, branch_ref, check_name, experiment_ref, short_name, unrecorded_ref
from agent.repo.git_command import COMMIT_ID, GitFailed, command_to_type, run_git
from agent.repo.identity import identity_of
from agent.repo.parking import park_commits, park_edits
from agent.repo.repair import check_out, common_folder, is_any_head_at, remove_stale_locks, same_repository
from agent.repo.repository import TRAIN_FILE, train_py_at, working_train_py
from research.errors import UserError
from research.files import exclusive, write_atomically
from research.formatting import counted


def branch_exists(repo: Path, branch: str) -> bool:
    """Whether the repository has this branch."""
    ref = branch_ref(branch)
    if _commit_in_file(repo, ref) is not None:
        return True
    return not _is_surely_missing(repo, ref) and _resolve(repo, ref) is not None


def commit_exists(repo: Path, commit: str) -> bool:
    """Whether the repository has this commit."""
    return _resolve(repo, f"{commit}^{{commit}}") is not None


def restore_branch(repo: Path, branch: str, commit: str) -> bool:
    """Makes a branch that somebody has deleted again at a commit, if the repository has that. Returns whether it did."""
    if branch_exists(repo, branch) or not commit_exists(repo, commit):
        return False
    run_git(repo, "update-ref", branch_ref(branch), commit)
    return True


def checked_out_branch(repo: Path) -> str | None:
    """The branch that a checkout is on; None with a detached HEAD."""
    try:
        return run_git(repo, "symbolic-ref", "--quiet", "--short", "HEAD").strip()
    except GitFailed:
        return None


def checked_out_branches(repo: Path) -> set[str]:
    """The branches that any checkout or worktree of the repository is on."""
    return {branch for _, branch in _checkouts(repo)}


@dataclass(frozen=True, kw_only=True)
class Worktree:
    """One loop's branch and the folder that it is checked out in."""

    repo: Path
    """The user's checkout, or the repository under the farm's home."""
    folder: Path
    branch: str
    owned: bool
    """Whether the farm created the folder. In the user's own checkout nothing but train.py may be touched."""
    identity: str
    """The author of the commits, `Name <email>`."""

    @classmethod
    def create(cls, repo: Path, folder: Path, branch: str, *, base: str = "HEAD", train_py: str | None = None) -> "Worktree":
        """Starts a branch at `base` with a first commit of `train_py`; right after this, `head()` is the baseline.

        If `train_py` is None or the same as in `base`, the baseline is `base` itself. A start that was interrupted is
        completed; any other branch of that name is a UserError.
        """
        worktree = cls._at(repo, folder, branch)
        base_commit = base if train_py_at.knows(repo, base) else _resolve(repo, f"{base}^{{commit}}")
        if base_commit is None:
            raise UserError(f"{repo} has no commit {base} to start from: commit {TRAIN_FILE} first.")
        base_text = _train_py_in(repo, base_commit)
        if base_text is None:
            raise UserError(f"{TRAIN_FILE} isn't committed in {repo} at {base}: commit it first.")
        text = base_text if train_py is None else train_py
        blocking = PREFIX.rstrip("/")
        if branch_exists(repo, blocking):
            raise UserError(f"git can't create {branch!r} while there is a branch {blocking!r}: rename that branch.")
        with _lock(repo):
            worktree._refuse_a_checkout_elsewhere()
            remove_stale_locks(repo, worktree.folder, branch)
            if branch_exists(repo, branch):
                worktree._refuse_unless_unfinished_start(base_commit, text)
            else:
                worktree.folder.mkdir(parents=True, exist_ok=True)  # first: it tells whose branch an interrupted start left
                worktree._start_at(base_commit, text, is_new=text != base_text)
            check_out(repo, worktree.folder, branch)
        return worktree

    @classmethod
    def open(cls, repo: Path, folder: Path, branch: str) -> "Worktree":
        """The worktree of a branch that exists, with its files at the branch's commit.

        Repairs what a killed farm leaves: stale locks, a folder that is missing or incomplete. Files that git doesn't
        track (results.tsv, run.log) stay. Raises UserError.
        """
        worktree = cls._at(repo, folder, branch)
        if not branch_exists(repo, branch):
            raise UserError(f"There is no branch {branch} in {repo}.")
        with _lock(repo):
            worktree._refuse_a_checkout_elsewhere()
            remove_stale_locks(repo, worktree.folder, branch)
            check_out(repo, worktree.folder, branch)
        return worktree

    @classmethod
    def in_place(cls, repo: Path, branch: str) -> "Worktree":
        """The user's own checkout, in which only train.py is ever touched. Raises UserError if it isn't on the branch."""
        worktree = cls(repo=repo, folder=repo, branch=branch, owned=False, identity=identity_of(repo))
        if not branch_exists(repo, branch):
            raise UserError(f"There is no branch {branch} in {repo}: use another --tag, or work in the checkout that has it.")
        if checked_out_branch(repo) != branch:
            worktree._refuse_a_checkout_elsewhere()
            raise UserError(f"{repo} is not on the branch {branch}: run `git switch {branch}` first, or use another --tag.")
        return worktree

    @classmethod
    def _at(cls, repo: Path, folder: Path, branch: str) -> "Worktree":
        check_name(short_name(branch), "tag")
        return cls(repo=repo, folder=folder.absolute(), branch=branch, owned=True, identity=identity_of(repo))

    def head(self) -> str:
        """The branch's commit. Raises UserError if somebody has deleted the branch."""
        ref = branch_ref(self.branch)
        commit = _commit_in_file(self.repo, ref) or _resolve(self.repo, ref)
        if commit is None:
            raise UserError(f"The branch {self.branch} is gone from {self.repo}: the same command makes it again.")
        return commit

    def mend(self, commit: str) -> list[str]:
        """Makes again what somebody has deleted: the branch, at `commit`, and the folder, if it is the farm's. Returns what it
        was.
        """
        missing = ["branch"] if restore_branch(self.repo, self.branch, commit) else []
        if self.owned and not (self.folder / ".git").is_file():
            missing.append("folder")
        if missing and self.owned:
            with _lock(self.repo):
                check_out(self.repo, self.folder, self.branch)
        return missing

    def train_py(self, commit: str) -> str:
        """The text of train.py at a commit."""
        return train_py_at(self.repo, commit)

    def commit(self, train_py: str, *, message: str, parent: str, experiment_id: str, merged: Sequence[str] = ()) -> str:
        """Commits `train_py` on top of `parent` under the experiment's ref, and checks nothing out. Returns the commit.

        `merged` are the commits that it puts together; they become its further parents.

        A farm that was killed before the experiment was recorded may have left a commit there: the same commit is reused,
        and a different one moves to a ref for unrecorded commits.
        """
        check_name(experiment_id, "experiment id")
        ref = experiment_ref(experiment_id)
        try:
            return self._commit(train_py, message=message, parent=parent, ref=ref, merged=merged)
        except GitFailed:
            existing = _resolve(self.repo, ref)
            if existing is None:
                raise
            if _resolve(self.repo, f"{existing}^") == parent and self.train_py(existing) == train_py:
                return existing
            run_git(self.repo, "update-ref", unrecorded_ref(existing), existing)
            run_git(self.repo, "update-ref", "-d", ref, existing)
            return self._commit(train_py, message=message, parent=parent, ref=ref, merged=merged)

    def name_experiment(self, commit: str, experiment_id: str) -> None:
        """Puts a commit that a person made under an experiment's ref."""
        check_name(experiment_id, "experiment id")
        run_git(self.repo, "update-ref", experiment_ref(experiment_id), commit)

    def advance(self, commit: str) -> list[str]:
        """Moves the branch and its files to a commit that is kept. Files that git doesn't track stay.

        Idempotent: after a crash at any point, another call completes it. In the user's own checkout, edits of other files
        stay, and so do later edits of train.py, and it raises UserError if the branch would lose commits made by hand. In a
        folder of the farm's such commits and edits are parked: it returns their refs.
        """
        old = self.head()
        parked: list[str | None] = []
        if not self.owned:
            self._refuse_to_lose_commits(old, commit)
        elif old != commit:
            parked = [park_edits(self.repo, self.folder, self.branch), park_commits(self.repo, self.branch, old, commit)]
        untouched = {self.train_py(old), self.train_py(commit)}
        if old != commit:
            run_git(self.repo, "update-ref", "-m", "autoresearch: keep", branch_ref(self.branch), commit, old)
        if self.owned:
            run_git(self.folder, "reset", "--quiet", "--hard", commit)
        elif working_train_py(self.folder) in {_unix_lines(text) for text in untouched}:
            self._put(commit)
        else:
            self._list(commit)
        return [ref for ref in parked if ref is not None]

    def move_shared(self, branch: str, commit: str) -> str | None:
        """Moves another branch, which is checked out nowhere, to a commit; creates it if necessary.

        Returns the ref that holds a person's commits, if there were any that it would have lost.
        """
        old = _commit_in_file(self.repo, branch_ref(branch)) or _resolve(self.repo, branch_ref(branch))
        if old == commit:
            return None
        parked = None if old is None else park_commits(self.repo, branch, old, commit)
        run_git(self.repo, "update-ref", "-m", "autoresearch: head", branch_ref(branch), commit)
        return parked

    def begin_again(self, train_py: str) -> None:
        """Adds a commit of another train.py to a branch on which nothing has been measured yet. No commit is removed."""
        with _lock(self.repo):
            if train_py != self.train_py(self.head()):
                message = f"Start {self.branch} again: train.py as it is now"
                self._commit(train_py, message=message, parent=self.head(), ref=branch_ref(self.branch))
            check_out(self.repo, self.folder, self.branch)

    def restore(self, commit: str, *, tried: str | None = None) -> bool:
        """Restores train.py in the folder from a commit, after a discard; no other file is touched.

        If `tried` is given and train.py has since changed to something else, that edit stays and the result is False.
        """
        if tried is not None and working_train_py(self.folder) != _unix_lines(tried):
            return False
        self._put(commit)
        return True

    def _put(self, commit: str) -> None:
        """Writes a commit's train.py into the folder, as git would, but so that a kill leaves the old text or the new one."""
        text = run_git(self.folder, "cat-file", "--filters", f"{commit}:{TRAIN_FILE}")
        write_atomically(self.folder / TRAIN_FILE, text)
        self._list(commit)
        run_git(self.folder, "status", "--porcelain", "--", TRAIN_FILE)  # git notes when the file was written

    def _list(self, commit: str) -> None:
        """Makes a commit's train.py the one in git's index of the folder."""
        blob = run_git(self.repo, "rev-parse", f"{commit}:{TRAIN_FILE}").strip()
        run_git(self.folder, "update-index", "--cacheinfo", f"100644,{blob},{TRAIN_FILE}")

    def _commit(self, train_py: str, *, message: str, parent: str, ref: str, merged: Sequence[str] = ()) -> str:
        """Creates blob, trees, commit and ref with one `git fast-import` (5 ms; a process for each step takes 20 ms)."""
        stream = [
            f"commit {ref}\nmark :1\ncommitter {self.identity} {int(time.time())} {time.strftime('%z')}\n",
            _data(message.replace("\0", "") + "\n"),
            f"from {parent}\n",
            *(f"merge {commit}\n" for commit in merged),
            f"M 100644 inline {TRAIN_FILE}\n",
            _data(train_py),
            "get-mark :1\ndone\n",
        ]
        commit = run_git(self.repo, "fast-import", "--quiet", "--done", stdin="".join(stream)).strip()
        train_py_at.tell(train_py, self.repo, commit)
        return commit

    def _start_at(self, base_commit: str, train_py: str, *, is_new: bool) -> None:
        """Creates the branch, with a commit of `train_py` on top if that is new."""
        if not is_new:
            run_git(self.repo, "update-ref", branch_ref(self.branch), base_commit, "")
            return
        message = f"Start {self.branch}: train.py with the starting hyperparameters"
        self._commit(train_py, message=message, parent=base_commit, ref=branch_ref(self.branch))

    def _refuse_unless_unfinished_start(self, base_commit: str, train_py: str) -> None:
        """Raises UserError unless the branch holds nothing but its baseline, as a farm killed during the start leaves it."""
        head = self.head()
        at_start = base_commit in (head, _resolve(self.repo, f"{head}^"))
        if not at_start or self.train_py(head) != train_py:
            raise UserError(f"The branch {self.branch} already exists: choose a new tag, or resume that one.")

    def _refuse_to_lose_commits(self, old: str, new: str) -> None:
        """Raises UserError for commits made by hand: those of the farm are all ancestors of `new`."""
        by_hand = int(run_git(self.repo, "rev-list", "--count", f"{new}..{old}"))
        if by_hand:
            common = run_git(self.repo, "merge-base", old, new).strip()
            command = command_to_type(self.repo, "reset", "--soft", common[:7])
            commits = counted(by_hand, "commit")
            raise UserError(f"{self.branch} has {commits} made by hand: `{command}` turns them into an edit, then try again.")

    def _refuse_a_checkout_elsewhere(self) -> None:
        for path, branch in _checkouts(self.repo) if is_any_head_at(self.repo, self.branch) else ():
            if branch != self.branch:
                continue
            elsewhere = path.resolve() != self.folder.resolve() and path.exists()
            if elsewhere and same_repository(path, self.repo):
                away = command_to_type(path, "switch", "--detach")
                raise UserError(f"The branch {self.branch} is checked out in {path}: `{away}` frees it, or use a new tag.")


def _train_py_in(repo: Path, commit: str) -> str | None:
    """The text of train.py in a commit that exists; None if it holds none."""
    try:
        return train_py_at(repo, commit)
    except GitFailed:
        return None


def _data(text: str) -> str:
    """A fast-import `data` command, whose length counts bytes."""
    return f"data {len(text.encode('utf-8', 'surrogateescape'))}\n{text}\n"


def _commit_in_file(repo: Path, ref: str) -> str | None:
    """The commit of a ref that git keeps in a file of its own, where it is before all others; None if it must be asked.

    A loop asks several times for each experiment, and a process of git takes milliseconds.
    """
    try:
        text = (repo / ".git" / ref).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):  # packed, in another format, or of a linked worktree
        return None
    return text if COMMIT_ID.fullmatch(text) else None


def _is_surely_missing(repo: Path, ref: str) -> bool:
    """Whether git keeps refs in files and has none for this one; False if git must be asked."""
    common = repo / ".git"
    is_plain = (common / "refs" / "heads").is_dir() and not (common / "commondir").exists()
    if not is_plain or not (path := common / ref).parent.is_dir() or path.is_file() or path.is_symlink():
        return False
    try:
        return f" {ref}\n" not in (common / "packed-refs").read_text(errors="replace")
    except FileNotFoundError:
        return True


def _resolve(repo: Path, revision: str) -> str | None:
    try:
        return run_git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", revision).strip()
    except GitFailed:
        return None


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _checkouts(repo: Path) -> list[tuple[Path, str]]:
    """The folder and the branch of every checkout of the repository that is on a branch."""
    found = []
    path = Path()
    for line in run_git(repo, "worktree", "list", "--porcelain").splitlines():
        if line.startswith("worktree "):
            path = Path(line.removeprefix("worktree "))
        elif line.startswith("branch "):
            found.append((path, branch_of_ref(line.removeprefix("branch "))))
    return found


@contextmanager
def _lock(repo: Path) -> Iterator[None]:
    """Lets one farm at a time create or repair worktrees: `git worktree add` is not safe against itself."""
    with exclusive(common_folder(repo) / "autoresearch-farm.lock"):
        yield
