"""What the command of a coding agent may do on this machine: which files it may write and read, and by what that is ensured.

It keeps the network and the user's environment, since it needs them. docs/researchers.md has this for people.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.researcher import NotConfigured
from agent.researchers.coding_agents import AGENTS, CodingAgent, names_of_others, state_folders
from research.command_hints import to_type
from research.files import home_folder
from research.result import SandboxMode
from research.sandbox import landlock, machine_files
from research.sandbox.layers import failure_of
from research.sandbox.machine_files import MachineFiles
from research.sandbox.namespaces import unshare_all

NAMES_PROGRAMS = (
    *("settings.json", "settings.local.json", "hooks", "plugins", "agents", "commands", "skills", "local", "CLAUDE.md"),
    *("config.toml", "AGENTS.md", "rules", "prompts", "extensions", "GEMINI.md"),
    *("bin", "node_modules", "package.json", "models.json", "SYSTEM.md"),
)
"""Names in these folders that stay read-only if they are there: a session outside of the farm would do what they say."""

PRIVATE = (".ssh", ".gnupg", ".docker", ".ray")
"""What is hidden of a home folder: keys by which a command could get out, to this machine or to another."""

CREDENTIALS = (
    *(".netrc", ".git-credentials", ".config/git", ".config/gh", ".npmrc", ".pypirc", ".kube"),
    *(".cache/huggingface/token", ".cache/huggingface/stored_tokens"),
)
"""What is hidden of a home folder from an agent known by name, which needs none of it: the user's keys to other services."""


@dataclass(frozen=True, kw_only=True)
class AgentBounds:
    """What the user and the farm say of a command's bounds."""

    sandbox: SandboxMode = "auto"
    """`auto`: what the host has; `strict`: refuse a host without namespaces; `off`: no bounds, only its processes are ended."""
    hidden: tuple[Path, ...] = ()
    """The farm's home, with the journal and its audit scores, and prepared data."""
    writable: tuple[Path, ...] = ()
    """Files and folders that it may write beside its own and agents' state: `--agent-writes`."""


@dataclass(frozen=True, kw_only=True)
class Containment:
    """What contains a command here."""

    namespaces: bool = False
    """Whether it sees read-only mounts and no process but its own."""
    landlock: bool = False
    """Whether Landlock does so for files, where there are no namespaces."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Why something is missing, by its name."""


def containment_here() -> Containment:
    """What this host has, which is tried in a process of its own. Never raises."""
    if sys.platform != "linux":
        return Containment(problems={"Linux": "only Linux has namespaces and Landlock"})
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        problem = failure_of(lambda: _try_mounts(Path(folder)))
    if problem is None:
        return Containment(namespaces=True)
    if landlock.abi():
        return Containment(landlock=True, problems={"namespaces": problem})
    return Containment(problems={"namespaces": problem, "landlock": "the kernel lacks it, or it is turned off"})


def containment(mode: SandboxMode) -> Containment:
    """What contains a command in this mode. Raises NotConfigured if it must be strict and something is missing."""
    if mode == "off":
        return Containment()
    here = containment_here()
    if mode == "strict" and not here.namespaces:
        how = f"`{to_type('farm doctor')}` says how to get them; --sandbox auto uses what there is"
        raise NotConfigured(f"This host has no namespaces, which --sandbox strict requires for a command: {how}.")
    return here


def containment_warning(mode: SandboxMode) -> str | None:
    """One line about what a command may do that it should not; None if it is contained."""
    if mode == "off":
        return "the sandbox is off: the researcher's command may read and write whatever you may"
    here = containment_here()
    if here.namespaces:
        return None
    what = "its files are bounded by Landlock only" if here.landlock else "nothing bounds what it reads and writes"
    return f"the researcher's command is contained in part: {what}; {to_type('farm doctor')} says why, and how to fix it"


def files_of_command(arguments: Sequence[str], bounds: AgentBounds, *, folder: Path, temporary: Path, prompt_file: Path,
                     environment: Mapping[str, str], agent: CodingAgent | None = None) -> MachineFiles:  # fmt: skip
    """What a command may do with files. `folder` is its working folder; `temporary`, an empty one, is its folder for others.

    A known `agent` sees nothing of what other agents keep; any other command may write what all of them keep.
    """
    home = home_folder()
    agents = tuple(AGENTS.values()) if agent is None else (agent,)
    state = [path for known in agents for path in state_folders(known, home, environment)]
    hidden = [*bounds.hidden, *(home / name for name in PRIVATE)]
    if agent is not None:
        hidden += [home / name for name in (*CREDENTIALS, *names_of_others(agent))]
    return MachineFiles(
        writable=(folder, *state, *bounds.writable),
        kept=(prompt_file, *_named_files(arguments), *(place / name for place in state for name in NAMES_PROGRAMS)),
        hidden=tuple(hidden),
        temporary=temporary,
    )


def _named_files(arguments: Sequence[str]) -> list[Path]:
    """The program that a command runs, and the files that it names by their whole path: they are found even if they lie in a
    folder for temporary files.
    """
    program = shutil.which(arguments[0])
    named = [Path(word) for word in (program, *arguments) if word and word.startswith("/")]
    return [path for path in named if os.path.isfile(path)]  # noqa: PTH113 - Path.is_file raises for a long argument


def _try_mounts(folder: Path) -> None:
    """Raises OSError if a command's files can't be mounted here."""
    temporary = folder / "temporary"
    temporary.mkdir()
    unshare_all(machine_files.NAMESPACES)
    files = MachineFiles(writable=(folder,), temporary=temporary)
    problem = failure_of(lambda: machine_files.enter_mounts(files))
    if problem:
        raise OSError(problem)
