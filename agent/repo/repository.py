"""The git repository that the farm works in, and the train.py in it."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import research
from agent.repo.branch_names import BRANCH_REFS
from agent.repo.git_command import GitFailed, command_to_type, run_git
from agent.repo.identity import as_the_farm
from agent.repo.ref_files import commit_of_head, git_folder
from research.errors import UserError
from research.remembered_texts import Remembered

TRAIN_FILE = "research/train.py"
"""The only file that the farm ever commits."""

START_GIT = "git init && git add --all && git commit -m start"
"""What makes a repository of a source tree that git doesn't know."""

IGNORED = "results.tsv*\nprogress.png*\nrun.log\n"
"""The .gitignore of a repository under the home."""


def repository_for(start: Path, home: Path, *, renew: bool = False, edited: bool = False) -> Path:
    """The checkout around `start`, if it holds research/train.py and git can write there; else a repository under the farm's
    home.

    The latter is created if it doesn't exist, with the train.py that is committed around `start`, else the installed one. With
    `renew`, files that have since changed there are committed, so that new branches start from them. With `edited`, the
    train.py around `start` may be an edit: if no other text of it is known, that is a UserError. So is a checkout whose folder
    lacks the committed train.py.
    """
    checkout = checkout_around(start)
    if checkout is not None and (checkout / TRAIN_FILE).is_file():
        if _can_commit(checkout):
            return checkout
    elif checkout is not None and head_train_py(checkout) is not None:
        raise _missing(checkout)
    repository = home / "repository"
    if not repository.exists():
        make_repository(repository, _first_files(start, edited=edited))
    elif renew and not _on_farm_branch(repository):
        _renew(repository, _first_files(start, edited=False))
    return repository


def source_tree(start: Path) -> Path | None:
    """The nearest folder from `start` upwards that holds research/train.py, whether git knows it or not; None if none does."""
    folder = start.resolve()
    return next((tree for tree in (folder, *folder.parents) if (tree / TRAIN_FILE).is_file()), None)


def recorded_train_py(repositories: Iterable[Path], commit: str) -> str | None:
    """The text of train.py at a commit, from the first of the repositories that holds it; None if none does.

    Nothing is created. Raises UserError if git refuses to read one of them.
    """
    refused: UserError | None = None
    for repository in repositories:
        try:
            return train_py_at(repository, commit)
        except GitFailed as error:
            refused = refused or _untrusted(repository, error)
    if refused is not None:
        raise refused
    return None


def make_repository(folder: Path, files: dict[str, str]) -> None:
    """Creates a git repository with one commit of `files` (path -> text).

    It appears complete or not at all, even if two processes create it at once.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".repository-"))
    try:
        run_git(unfinished, "-c", "init.defaultBranch=main", "init", "--quiet", "--template=")
        for name, text in files.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_text(text, encoding="utf-8")
        run_git(unfinished, "add", "--all")
        run_git(unfinished, *as_the_farm(), "commit", "--quiet", "--message", "Start from the installed train.py")
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except OSError:
        if not (folder / ".git").exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def head_train_py(repo: Path, revision: str = "HEAD") -> str | None:
    """The text of train.py at a revision; None if the revision or the file doesn't exist."""
    commit = commit_of_head(repo) if revision == "HEAD" else None
    if commit is None:
        return _text_at(repo, revision, TRAIN_FILE)
    try:
        return train_py_at(repo, commit)
    except GitFailed:
        return None


@Remembered
def train_py_at(repo: Path, commit: str) -> str:
    """The text of train.py in a commit that holds it, named by its full hash. Raises GitFailed."""
    return run_git(repo, "cat-file", "blob", f"{commit}:{TRAIN_FILE}")


def working_train_py(checkout: Path) -> str | None:
    """The text of train.py in a checkout's folder, with \\n line endings; None if the file is missing. Raises UserError."""
    try:
        return (checkout / TRAIN_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"{checkout / TRAIN_FILE} is not UTF-8 text.") from None


def train_py_to_try(checkout: Path) -> str:
    """The text of train.py in a checkout's folder. Raises UserError if the file is missing."""
    working = working_train_py(checkout)
    if working is None:
        raise _missing(checkout)
    return working


def committed_around(tree: Path) -> str | None:
    """The committed train.py of a source tree, which may be a folder of a larger repository; None if git knows none."""
    return _text_at(tree, "HEAD", f"./{TRAIN_FILE}")


def uncommitted_train_py(repo: Path) -> str | None:
    """The text of the checkout's train.py if it differs from HEAD's in more than line endings; else None."""
    working, committed = working_train_py(repo), head_train_py(repo)
    same = committed is not None and working == committed.replace("\r\n", "\n")
    return None if same else working


def _renew(repository: Path, files: dict[str, str]) -> None:
    """Commits the `files` that have changed, except those that were edited in the repository."""
    changed = []
    for name, text in files.items():
        committed = _text_at(repository, "HEAD", name)
        path = repository / name
        if text != committed and (not path.exists() or path.read_text(encoding="utf-8") == committed):
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    if changed:
        message = "Update to the installed " + " and ".join(changed)
        run_git(repository, "add", "--", *changed)
        run_git(repository, *as_the_farm(), "commit", "--quiet", "--message", message, "--only", "--", *changed)


def _missing(checkout: Path) -> UserError:
    if _is_sparse(checkout):
        command = command_to_type(checkout, "sparse-checkout", "add", str(Path(TRAIN_FILE).parent))
        return UserError(f"{checkout / TRAIN_FILE} is left out of this sparse checkout: `{command}` adds it.")
    command = command_to_type(checkout, "checkout", "HEAD", "--", TRAIN_FILE)
    return UserError(f"{checkout / TRAIN_FILE} is missing: `{command}` restores what is committed.")


def _text_at(repo: Path, revision: str, name: str) -> str | None:
    try:
        return run_git(repo, "cat-file", "blob", f"{revision}:{name}")
    except GitFailed:
        return None


def checkout_around(start: Path) -> Path | None:
    """The top folder of the checkout that `start` is in; None outside of any. Raises UserError if git doesn't trust it."""
    try:
        return Path(run_git(start, "rev-parse", "--show-toplevel").rstrip("\n"))
    except GitFailed as error:
        refused = _untrusted(start, error)
        if refused is not None:
            raise refused from None
        return None


def _untrusted(folder: Path, error: GitFailed) -> UserError | None:
    """The error for a folder that git refuses to read because another user owns it; None if that isn't why git failed."""
    if "dubious ownership" not in error.said:
        return None
    named = re.search(r"dubious ownership in repository at '(.+)'", error.said)
    command = shlex.join(["git", "config", "--global", "--add", "safe.directory", named[1] if named else str(folder)])
    return UserError(f"git doesn't trust {folder}, which another user owns: if you do, run `{command}`.")


def _on_farm_branch(repository: Path) -> bool:
    """Whether somebody is at work there on a branch of the farm, which gets no commit that isn't an experiment."""
    return run_git(repository, "rev-parse", "--symbolic-full-name", "HEAD").startswith(f"{BRANCH_REFS}/")


def _is_sparse(checkout: Path) -> bool:
    try:
        return run_git(checkout, "config", "--type=bool", "core.sparseCheckout").strip() == "true"
    except GitFailed:  # it is not set
        return False


def _can_commit(checkout: Path) -> bool:
    """Whether this process can write where git keeps the checkout's commits and branches, and its index."""
    own = git_folder(checkout)
    asked = ("rev-parse", "--path-format=absolute", "--git-common-dir", "--git-dir")
    folders = run_git(checkout, *asked).splitlines() if own is None else [own]
    return all(os.access(folder, os.W_OK) for folder in folders)


def _first_files(start: Path, *, edited: bool) -> dict[str, str]:
    """The files of the first commit in a repository under the home: those that are committed around `start`, else the installed
    ones. Raises UserError if `edited` and those may be an edit.
    """
    tree = source_tree(start)
    committed = None if tree is None else _text_at(tree, "HEAD", f"./{TRAIN_FILE}")
    if tree is None or committed is None:
        if edited and tree is not None and tree / TRAIN_FILE == Path(research.__file__).resolve().parent / "train.py":
            commands = "git init && git add --all && git commit -m start"
            raise UserError(
                f"{tree} is not in a git repository, so nothing tells your edit of {TRAIN_FILE} from the text to compare it "
                f"with: with the unedited file in place run `{commands}` there, then make the edit and try it."
            )
        return _installed_files()
    program = _text_at(tree, "HEAD", "./program.md")
    return {TRAIN_FILE: committed, **({} if program is None else {"program.md": program}), ".gitignore": IGNORED}


def _installed_files() -> dict[str, str]:
    """The files of the first commit in a repository under the home, read from the installation. Raises UserError."""
    package = Path(research.__file__).parent
    files = {TRAIN_FILE: package / "train.py"}
    if not files[TRAIN_FILE].is_file():
        raise UserError(f"{files[TRAIN_FILE]} is missing: restore it, or reinstall the farm.")
    for program in (package / "program.md", package.parent / "program.md"):  # in a wheel, in a checkout
        if program.is_file():
            files["program.md"] = program
            break
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    return {**texts, ".gitignore": IGNORED}
