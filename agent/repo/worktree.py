"""Git for a research loop: a branch, candidate commits of train.py and nothing else, keep and recover.

A candidate is committed without being checked out, under `refs/experiments/<id>`, so that nothing has to be undone and
many loops can commit at once. The branch moves only in `advance`, on a keep.
"""

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.repo.git_command import GitFailed, command_to_type, run_git
from agent.repo.repository import TRAIN_FILE, head_train_py, working_train_py
from research.errors import UserError
from research.text import counted

FALLBACK_IDENTITY = "autoresearch farm <farm@localhost>"
"""Commits are made by this name where the user has configured none."""

STALE_LOCK_S = 3.0
"""Git holds the locks that we may remove for milliseconds; one this old belongs to a dead process."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def branch_name(tag: str, *, loop: int = 0, loops: int = 1) -> str:
    """`autoresearch/<tag>`, or `autoresearch/<tag>-gpu<loop>` where there are several loops. Checks the tag."""
    _check_name(tag, "tag")
    return f"autoresearch/{tag}" if loops == 1 else f"autoresearch/{tag}-gpu{loop}"


def worktree_folder(home: Path, branch: str) -> Path:
    """Where a branch's files lie under the farm's home."""
    return home / "worktrees" / branch.removeprefix("autoresearch/")


def branch_exists(repo: Path, branch: str) -> bool:
    """Whether the repository has this branch."""
    return _resolve(repo, f"refs/heads/{branch}") is not None


def checked_out_branch(repo: Path) -> str | None:
    """The branch that a checkout is on; None with a detached HEAD."""
    try:
        return run_git(repo, "symbolic-ref", "--quiet", "--short", "HEAD").strip()
    except GitFailed:
        return None


def checked_out_branches(repo: Path) -> set[str]:
    """The branches that any checkout or worktree of the repository is on."""
    return {branch for _, branch in _checkouts(repo)}


def experiment_ref(experiment_id: str) -> str:
    """Where an experiment's commit stays, also where it was not kept."""
    return f"refs/experiments/{experiment_id}"


def experiment_refs(repo: Path) -> dict[str, str]:
    """Experiment id -> commit, for all experiments of a repository."""
    lines = run_git(repo, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/experiments").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)


@dataclass(frozen=True, kw_only=True)
class Worktree:
    """One loop's branch and the folder that it is checked out in."""

    repo: Path
    """The user's checkout, or the repository under the farm's home."""
    folder: Path
    branch: str
    owned: bool
    """Whether the farm made the folder; the user's own checkout is handled with more care."""
    identity: str
    """`Name <email>` of the commits."""

    @classmethod
    def create(cls, repo: Path, folder: Path, branch: str, *, base: str = "HEAD", train_py: str | None = None) -> "Worktree":
        """Starts a branch at `base` with a first commit of `train_py`; right after this, `head()` is the baseline.

        Where `train_py` is None or the same as in `base`, the baseline is `base` itself. A start that was cut off is
        gone on with; any other branch of that name is a UserError.
        """
        worktree = cls._at(repo, folder, branch)
        base_commit = _resolve(repo, f"{base}^{{commit}}")
        if base_commit is None:
            raise UserError(f"{repo} has no commit {base} to start from: commit research/train.py first.")
        base_text = head_train_py(repo, base_commit)
        if base_text is None:
            raise UserError(f"research/train.py isn't committed in {repo} at {base}: commit it first.")
        text = base_text if train_py is None else train_py
        if branch_exists(repo, "autoresearch"):
            raise UserError("A branch called `autoresearch` stands in the way of `autoresearch/<tag>`: rename it.")
        with _lock(repo):
            worktree._refuse_a_checkout_elsewhere()
            worktree._remove_stale_locks()
            if branch_exists(repo, branch):
                worktree._refuse_unless_unfinished_start(base_commit, text)
            elif text == base_text:
                run_git(repo, "update-ref", f"refs/heads/{branch}", base_commit, "")
            else:
                message = f"Start {branch}: train.py with the starting hyperparameters"
                worktree._commit(text, message=message, parent=base_commit, ref=f"refs/heads/{branch}")
            worktree._check_out()
        return worktree

    @classmethod
    def open(cls, repo: Path, folder: Path, branch: str) -> "Worktree":
        """The worktree of a branch that exists, with its files at the branch's commit.

        Recovers what a killed farm leaves: stale locks, a folder that is missing or half made. Files that git doesn't
        track (results.tsv, run.log) stay.
        """
        worktree = cls._at(repo, folder, branch)
        if not branch_exists(repo, branch):
            raise UserError(f"There is no branch {branch} in {repo}.")
        with _lock(repo):
            worktree._refuse_a_checkout_elsewhere()
            worktree._remove_stale_locks()
            worktree._check_out()
        return worktree

    @classmethod
    def in_place(cls, repo: Path, branch: str) -> "Worktree":
        """The user's own checkout, which must be on the branch. Only research/train.py is ever touched in it."""
        worktree = cls(repo=repo, folder=repo, branch=branch, owned=False, identity=_identity(repo))
        if checked_out_branch(repo) != branch:
            worktree._refuse_a_checkout_elsewhere()
            raise UserError(f"{repo} is not on the branch {branch}: run `git switch {branch}` first, or use another --tag.")
        return worktree

    @classmethod
    def _at(cls, repo: Path, folder: Path, branch: str) -> "Worktree":
        _check_name(branch.removeprefix("autoresearch/"), "tag")
        return cls(repo=repo, folder=folder.absolute(), branch=branch, owned=True, identity=_identity(repo))

    def head(self) -> str:
        """The branch's commit."""
        return run_git(self.repo, "rev-parse", "--verify", f"refs/heads/{self.branch}").strip()

    def train_py(self, commit: str) -> str:
        """The text of train.py at a commit."""
        return run_git(self.repo, "cat-file", "blob", f"{commit}:{TRAIN_FILE}")

    def diff(self, old: str, new: str) -> str:
        """Unified diff of train.py between two commits."""
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/", "--no-color", "--no-ext-diff", "--no-textconv")
        return run_git(self.repo, "diff-tree", "-r", "-p", *prefixes, old, new, "--", TRAIN_FILE)

    def changed_files(self, old: str, new: str) -> list[str]:
        """Paths of all files that differ between two commits."""
        names = run_git(self.repo, "diff-tree", "-r", "-z", "--name-only", "--no-renames", old, new)
        return [name for name in names.split("\0") if name]

    def commit(self, train_py: str, *, message: str, parent: str, experiment_id: str) -> str:
        """Commits `train_py` on top of `parent` under `refs/experiments/<experiment_id>`; nothing is checked out.

        What a farm that was killed left there, before the experiment came on record, is taken if it is the same commit;
        another one stays under `refs/unrecorded/<commit>`.
        """
        _check_name(experiment_id, "experiment id")
        ref = experiment_ref(experiment_id)
        try:
            return self._commit(train_py, message=message, parent=parent, ref=ref)
        except GitFailed:
            existing = _resolve(self.repo, ref)
            if existing is None:
                raise
            if _resolve(self.repo, f"{existing}^") == parent and self.train_py(existing) == train_py:
                return existing
            run_git(self.repo, "update-ref", f"refs/unrecorded/{existing}", existing)
            run_git(self.repo, "update-ref", "-d", ref, existing)
            return self._commit(train_py, message=message, parent=parent, ref=ref)

    def advance(self, commit: str) -> None:
        """Moves the branch and its files to a commit that is kept. Files that git doesn't track stay.

        Doing it again, after a crash at any point, completes it. In the user's own checkout, edits of other files and
        edits of train.py that were made since stay; a UserError says so where the branch has commits made by hand, which it
        would lose.
        """
        old = self.head()
        if not self.owned:
            self._refuse_to_lose_commits(old, commit)
        untouched = {self.train_py(old), self.train_py(commit)}
        if old != commit:
            run_git(self.repo, "update-ref", "-m", "autoresearch: keep", f"refs/heads/{self.branch}", commit, old)
        if self.owned:
            run_git(self.folder, "reset", "--quiet", "--hard", commit)
        elif working_train_py(self.folder) in {_unix_lines(text) for text in untouched}:
            run_git(self.folder, "checkout", "--quiet", commit, "--", TRAIN_FILE)
        else:
            blob = run_git(self.repo, "rev-parse", f"{commit}:{TRAIN_FILE}").strip()
            run_git(self.folder, "update-index", "--cacheinfo", f"100644,{blob},{TRAIN_FILE}")

    def begin_again(self, train_py: str) -> None:
        """Puts another train.py on a branch on which nothing was measured yet, as one more commit: none is taken away."""
        with _lock(self.repo):
            if train_py != self.train_py(self.head()):
                message = f"Start {self.branch} again: train.py as it is now"
                self._commit(train_py, message=message, parent=self.head(), ref=f"refs/heads/{self.branch}")
            self._check_out()

    def restore(self, commit: str, *, tried: str | None = None) -> bool:
        """Puts train.py in the folder back to a commit's, after a discard; no other file is touched.

        Where `tried` is given and train.py holds something else by now, the newer edit stays and the answer is False.
        """
        if tried is not None and working_train_py(self.folder) != _unix_lines(tried):
            return False
        run_git(self.folder, "checkout", "--quiet", commit, "--", TRAIN_FILE)
        return True

    def _commit(self, train_py: str, *, message: str, parent: str, ref: str) -> str:
        """One `git fast-import` makes blob, trees, commit and ref: 5 ms, where a process for each step takes 20."""
        stream = [
            f"commit {ref}\nmark :1\ncommitter {self.identity} {int(time.time())} {time.strftime('%z')}\n",
            _data(message.replace("\0", "") + "\n"),
            f"from {parent}\nM 100644 inline {TRAIN_FILE}\n",
            _data(train_py),
            "get-mark :1\ndone\n",
        ]
        return run_git(self.repo, "fast-import", "--quiet", "--done", stdin="".join(stream)).strip()

    def _refuse_unless_unfinished_start(self, base_commit: str, train_py: str) -> None:
        """A farm that was killed after it made the branch, and before anything was recorded, left just the baseline."""
        head = self.head()
        at_start = base_commit in (head, _resolve(self.repo, f"{head}^"))
        if not at_start or self.train_py(head) != train_py:
            raise UserError(f"The branch {self.branch} already exists: choose a new tag, or go on with that one.")

    def _refuse_to_lose_commits(self, old: str, new: str) -> None:
        """The farm's own commits follow each other, so what `new` doesn't build on was committed by somebody else."""
        by_hand = int(run_git(self.repo, "rev-list", "--count", f"{new}..{old}"))
        if by_hand:
            common = run_git(self.repo, "merge-base", old, new).strip()
            command = command_to_type(self.repo, "reset", "--soft", common[:7])
            raise UserError(
                f"{self.branch} has {counted(by_hand, 'commit')} made by hand, to be turned into an edit by `{command}`."
            )

    def _refuse_a_checkout_elsewhere(self) -> None:
        for path, branch in _checkouts(self.repo):
            elsewhere = path.resolve() != self.folder.resolve() and path.exists()
            if branch == self.branch and elsewhere and _same_repository(path, self.repo):
                raise UserError(f"The branch {self.branch} is checked out in {path}: leave it there, or use a new tag.")

    def _check_out(self) -> None:
        """Brings the folder to the branch's commit, whatever state it is in."""
        aside = self.folder.with_name(self.folder.name + ".broken")
        if not self._is_sound():
            if self.folder.exists() and not aside.exists():
                self.folder.rename(aside)
            shutil.rmtree(self.folder, ignore_errors=True)
            for admin_folder in self._admin_folders():
                shutil.rmtree(admin_folder)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            run_git(self.repo, "worktree", "add", "--quiet", "--force", str(self.folder), self.branch)
        run_git(self.folder, "symbolic-ref", "HEAD", f"refs/heads/{self.branch}")
        run_git(self.folder, "reset", "--quiet", "--hard")
        if aside.exists():
            _move_missing(aside, self.folder)
            shutil.rmtree(aside)

    def _is_sound(self) -> bool:
        """Whether the folder is a whole worktree of this repository.

        Without .git it would pass for a part of what surrounds it; in a copied home .git points to the original's repository.
        """
        try:
            top = run_git(self.folder, "rev-parse", "--show-toplevel").rstrip("\n")
            if not _same_repository(self.folder, self.repo):
                return False
            run_git(self.folder, "ls-files", "--", TRAIN_FILE)  # reads the index
        except GitFailed:
            return False
        interrupted = any((admin_folder / "locked").exists() for admin_folder in self._admin_folders())
        return Path(top).resolve() == self.folder.resolve() and not interrupted

    def _admin_folders(self) -> list[Path]:
        """What git keeps about this folder: usually one of `.git/worktrees/*`, none when it isn't known."""
        links = _common_folder(self.repo).glob("worktrees/*/gitdir")
        pointed_at = {link.parent: link.parent / link.read_text().strip() for link in links}
        return [admin for admin, git_file in pointed_at.items() if git_file.parent.resolve() == self.folder.resolve()]

    def _remove_stale_locks(self) -> None:
        """Removes locks that a killed git left, of files that only the farm writes."""
        common = _common_folder(self.repo)
        locks = [common / f"refs/heads/{self.branch}.lock", *common.glob("refs/experiments/*.lock")]
        for admin_folder in self._admin_folders():
            locks += admin_folder.glob("*.lock")
        for lock in locks:
            _remove_when_stale(lock)


def _data(text: str) -> str:
    """A fast-import `data` command, whose length counts bytes."""
    return f"data {len(text.encode('utf-8', 'surrogateescape'))}\n{text}\n"


def _identity(repo: Path) -> str:
    try:
        stamp = run_git(repo, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    except GitFailed:
        return FALLBACK_IDENTITY
    return stamp.rsplit(" ", 2)[0]


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name or name.endswith((".", ".lock")):
        raise UserError(f"{name!r} is no {what}: use letters, digits, dots, _ and -, a letter or digit first.")


def _resolve(repo: Path, revision: str) -> str | None:
    try:
        return run_git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", revision).strip()
    except GitFailed:
        return None


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _common_folder(repo: Path) -> Path:
    return Path(run_git(repo, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip("\n"))


def _same_repository(folder: Path, repo: Path) -> bool:
    """Whether a worktree is one of `repo`, as far as can be told. A copied repository still lists those of the original."""
    try:
        common = _common_folder(folder)
    except GitFailed:
        return True
    return common.resolve() == _common_folder(repo).resolve()


def _checkouts(repo: Path) -> list[tuple[Path, str]]:
    """(folder, branch) of every checkout of the repository."""
    found = []
    path = Path()
    for line in run_git(repo, "worktree", "list", "--porcelain").splitlines():
        if line.startswith("worktree "):
            path = Path(line.removeprefix("worktree "))
        elif line.startswith("branch "):
            found.append((path, line.removeprefix("branch refs/heads/")))
    return found


@contextmanager
def _lock(repo: Path) -> Iterator[None]:
    """One farm at a time makes or mends worktrees: `git worktree add` is not safe against itself."""
    with (_common_folder(repo) / "autoresearch-farm.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_when_stale(lock: Path) -> None:
    """Gives a live git time to finish; what is still there after that is nobody's."""
    deadline = time.monotonic() + STALE_LOCK_S
    while lock.exists() and time.monotonic() < deadline and time.time() - lock.stat().st_mtime < STALE_LOCK_S:
        time.sleep(0.05)
    lock.unlink(missing_ok=True)


def _move_missing(source: Path, target: Path) -> None:
    """Moves what `target` doesn't have: the untracked files of a broken worktree into the new one."""
    for entry in source.iterdir():
        if entry.name != ".git" and not (target / entry.name).exists():
            shutil.move(entry, target / entry.name)
