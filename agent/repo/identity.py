"""Whose name the commits bear: the user's where git knows one, else the farm's."""

from pathlib import Path

from agent.repo.git_command import GitFailed, run_git

FARM_NAME, FARM_EMAIL = "autoresearch farm", "farm@localhost"
"""The author of commits if the user has configured none."""


def identity_of(repo: Path) -> str:
    """The author and committer of the farm's commits in a repository, `Name <email>`."""
    try:
        stamp = run_git(repo, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    except GitFailed:
        return f"{FARM_NAME} <{FARM_EMAIL}>"
    return stamp.rsplit(" ", 2)[0]


def as_the_farm() -> tuple[str, ...]:
    """Options of git that set the author."""
    return ("-c", f"user.name={FARM_NAME}", "-c", f"user.email={FARM_EMAIL}")
