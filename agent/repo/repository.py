"""The git repository that the farm works in, and the train.py in it."""

import shutil
import tempfile
from pathlib import Path

import research
from agent.repo.git_command import GitFailed, command_to_type, run_git
from research.errors import UserError

TRAIN_FILE = "research/train.py"
"""The only file that the farm ever commits."""

FARM_NAME, FARM_EMAIL = "autoresearch farm", "farm@localhost"
"""The author of commits if the user has configured none."""


def repository_for(start: Path, home: Path, *, renew: bool = False) -> Path:
    """The checkout around `start`, if it holds research/train.py; else a repository under the farm's home.

    The latter is created from the installed files if it doesn't exist. With `renew`, files that have since changed in the
    installation are committed there, so that new branches start from them. Raises UserError for a checkout
    whose folder lacks the committed train.py.
    """
    checkout = _checkout_around(start)
    if checkout is not None and (checkout / TRAIN_FILE).is_file():
        return checkout
    if checkout is not None and head_train_py(checkout) is not None:
        raise _missing(checkout)
    repository = home / "repository"
    if not repository.exists():
        make_repository(repository, _installed_files())
    elif renew:
        _renew(repository, _installed_files())
    return repository


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
        run_git(unfinished, *_identity(), "commit", "--quiet", "--message", "Start from the installed train.py")
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except OSError:
        if not (folder / ".git").exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def head_train_py(repo: Path, revision: str = "HEAD") -> str | None:
    """The text of train.py at a revision; None if the revision or the file doesn't exist."""
    return _text_at(repo, revision, TRAIN_FILE)


def train_py_at(repo: Path, commit: str) -> str:
    """The text of train.py in a commit that holds it. Raises GitFailed."""
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
        run_git(repository, *_identity(), "commit", "--quiet", "--message", message, "--only", "--", *changed)


def _identity() -> tuple[str, ...]:
    """Options of git that set the author."""
    return ("-c", f"user.name={FARM_NAME}", "-c", f"user.email={FARM_EMAIL}")


def _missing(checkout: Path) -> UserError:
    command = command_to_type(checkout, "checkout", "HEAD", "--", TRAIN_FILE)
    return UserError(f"{checkout / TRAIN_FILE} is missing: `{command}` restores what is committed.")


def _text_at(repo: Path, revision: str, name: str) -> str | None:
    try:
        return run_git(repo, "cat-file", "blob", f"{revision}:{name}")
    except GitFailed:
        return None


def _checkout_around(start: Path) -> Path | None:
    try:
        return Path(run_git(start, "rev-parse", "--show-toplevel").rstrip("\n"))
    except GitFailed as error:
        if "dubious ownership" in str(error):
            raise UserError(f"git doesn't trust {start}, which another user owns: add it to git's safe.directory.") from None
        return None


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
    return {**texts, ".gitignore": "results.tsv\nprogress.png\nrun.log\n"}
