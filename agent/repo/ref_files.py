"""What git keeps in files of its own, read without git: HEAD, refs, and where the repository is.

A start asks a dozen times and a loop several times for each experiment, and a process of git takes milliseconds. Each function
answers None where git keeps it in another way (gitrepository-layout(5)), and git must be asked.
"""

from pathlib import Path

from agent.repo.git_command import COMMIT_ID

_UNUSED = "refs/heads/.invalid"
"""What HEAD names in a repository whose refs are in another format."""


def git_folder(repo: Path) -> Path | None:
    """The .git folder of a repository that has it to itself; None for a linked worktree and for any other layout."""
    own = repo / ".git"
    return own if (own / "HEAD").is_file() and not (own / "commondir").exists() else None


def linked_folder(worktree: Path) -> Path | None:
    """The folder in which git keeps a linked worktree's HEAD and index; None if the folder is no such worktree."""
    try:
        named = (worktree / ".git").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    folder = worktree / named.removeprefix("gitdir: ").removesuffix("\n")
    return folder if named.startswith("gitdir: ") and (folder / "commondir").is_file() else None


def ref_of_head(repo: Path) -> str | None:
    """The full name of the ref that HEAD stands for; None with a detached HEAD, and if git must be asked."""
    text = _text_of_head(repo)
    ref = text.removeprefix("ref: ").strip()
    return ref if text.startswith("ref: ") and ref != _UNUSED else None


def commit_of_head(repo: Path) -> str | None:
    """The commit that HEAD is at; None if git must be asked."""
    ref = ref_of_head(repo)
    text = _text_of_head(repo).strip()
    return (text if COMMIT_ID.fullmatch(text) else None) if ref is None else commit_in_file(repo, ref)


def commit_in_file(repo: Path, ref: str) -> str | None:
    """The commit of a ref that git keeps in a file of its own, where it is before all others; None if git must be asked."""
    try:
        text = (repo / ".git" / ref).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):  # packed, in another format, or of a linked worktree
        return None
    return text if COMMIT_ID.fullmatch(text) else None


def is_surely_missing(repo: Path, ref: str) -> bool:
    """Whether git keeps refs in files and has none for this one; False if git must be asked."""
    common = git_folder(repo)
    if common is None or not (common / "refs" / "heads").is_dir() or (path := common / ref).is_file() or path.is_symlink():
        return False
    try:
        return f" {ref}\n" not in (common / "packed-refs").read_text(errors="replace")
    except FileNotFoundError:
        return True


def _text_of_head(repo: Path) -> str:
    """What the HEAD file of a checkout says; empty if there is none to read."""
    folder = git_folder(repo)
    if folder is None or (folder / "HEAD").is_symlink():
        return ""
    try:
        return (folder / "HEAD").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
