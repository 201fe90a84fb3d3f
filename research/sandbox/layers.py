"""The sandbox of a process that runs a researcher's train.py: layers that stack, each probed before it is relied on.

docs/threat-model.md says which attacks each layer stops, and what is not stopped. `Layers.names()` names the layers; those that
were in force are recorded with each run. `auto` uses what the host has, `strict` refuses a host that lacks namespaces, Landlock
or seccomp, `off` is for your own edits.
"""

import importlib.util
import os
import resource
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from research.command_hints import to_type
from research.errors import UserError
from research.files import research_folder
from research.sandbox import landlock, seccomp
from research.sandbox.limits import MAX_TASKS
from research.sandbox.linux import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    drop_capabilities,
    forbid_capabilities,
    prctl,
)
from research.sandbox.namespaces import become_init, enter_namespaces, unshare_all
from research.sandbox.root_folder import COMPILED, SCRATCH_FOLDERS, enter_root
from research.sandbox.visible import View, split_around

FIRST_IDENTITY = 790_000_000
"""First of the user ids that are reserved for runs: if the farm is root, every child of a judge gets its own."""

BROKEN = 97
"""Exit status of a process that could not enter its sandbox, or use its device in it: not the idea's fault."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers that a host has, or that are in force for a run."""

    identity: bool
    """A separate user id, which only root can give."""
    namespaces: bool
    """Mount, pid, net, ipc and uts namespaces, and a user namespace if the farm is not root."""
    landlock: int
    """The version of Landlock; 0 for none."""
    seccomp: bool
    linux: bool = True
    """Whether this is Linux; elsewhere there is supervision only."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Why a layer is missing, by its name."""

    def names(self) -> tuple[str, ...]:
        """Names of the layers, as a result records them."""
        if not self.linux:
            return ("supervision",)
        names = ["supervision", "limits", "no new privileges", "no capabilities"]
        names += ["identity"] if self.identity else []
        names += ["namespaces"] if self.namespaces else []
        names += [f"landlock {self.landlock}"] if self.landlock else []
        names += ["seccomp"] if self.seccomp else []
        return tuple(names)


NO_LAYERS = Layers(identity=False, namespaces=False, landlock=0, seccomp=False, linux=False)


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """The sandbox of one child of the judge."""

    layers: Layers
    view: View
    compiled: Path | None = None
    """Folder that this child compiles into if its train.py is trusted; inside namespaces it is COMPILED."""
    identity: int
    """User and group id, if `layers.identity`."""
    disk_bytes: int
    """Size of all files that it may write, inside namespaces."""


def probe(view: View, *, platform: str = sys.platform) -> Layers:
    """The layers that work here: each is tried in a separate process that sees what a run would. Never raises."""
    if platform != "linux":
        return NO_LAYERS
    version = landlock.abi()
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        without_namespaces = failure_of(lambda: _try_namespaces(view, Path(folder)))
    problems = {
        "namespaces": without_namespaces,
        "landlock": None if version else "the kernel lacks it, or it is turned off",
        "seccomp": failure_of(lambda: seccomp.install(seccomp.run_program())),
    }
    namespaces = problems["namespaces"] is None
    if os.geteuid() == 0:
        problems["identity"] = failure_of(lambda: _try_identity(view, namespaces=namespaces))
    return Layers(
        identity=problems.get("identity", "") is None,
        namespaces=namespaces,
        landlock=version,
        seccomp=problems["seccomp"] is None,
        problems={name: problem for name, problem in problems.items() if problem is not None},
    )


def check_strict(layers: Layers) -> None:
    """Raises a UserError that names the layers missing for `--sandbox strict`."""
    missing = [name for name, there in (("namespaces", layers.namespaces), ("Landlock", layers.landlock),
                                        ("seccomp", layers.seccomp)) if not there]  # fmt: skip
    if missing:
        raise UserError(f"This host has no {' and no '.join(missing)}, which --sandbox strict requires: "
                        f"`{to_type('farm doctor')}` says how to get it; --sandbox auto uses what there is.")  # fmt: skip


def enter(sandbox: Sandbox, folder: Path, *, channel: int) -> None:
    """Puts this process, which must have one thread only, into the sandbox for good. `folder` is its working directory.

    With namespaces it becomes three processes: this one, which stays outside and waits; the first one inside, at whose end the
    kernel kills all others inside; and the one that returns from here. Those that wait pass its exit status on.
    """
    layers = sandbox.layers
    try:
        _forget_hidden_packages(sandbox.view)
        _bound_resources(sandbox)
        if layers.namespaces:
            enter_namespaces(channel, inside=lambda: _enter_root(sandbox, folder))
        else:
            _drop_privileges(sandbox)
        _hide_files(sandbox, folder)
        if layers.seccomp:
            program = seccomp.run_program(keep_attributes=not layers.namespaces, cuda=sandbox.view.has_gpu)
            seccomp.install(program)
        if layers.namespaces:
            become_init(channel)
    except Exception as error:
        if not isinstance(error, OSError):
            traceback.print_exc()
        print(f"the sandbox could not be set up: {error}", file=sys.stderr, flush=True)
        os._exit(BROKEN)


def _enter_root(sandbox: Sandbox, folder: Path) -> None:
    owner = sandbox.identity if sandbox.layers.identity else os.geteuid()
    enter_root(sandbox.view, folder, compiled=sandbox.compiled, owner=owner, memory_bytes=sandbox.disk_bytes)
    _drop_privileges(sandbox)


def _bound_resources(sandbox: Sandbox) -> None:
    _lower_limit(resource.RLIMIT_CORE, 0)
    if sandbox.layers.identity or (sandbox.layers.namespaces and os.geteuid()):
        _lower_limit(resource.RLIMIT_NPROC, MAX_TASKS)  # counted per user id, or within the user namespace


def _lower_limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, value))


def _forget_hidden_packages(view: View) -> None:
    """Lets imports of hidden packages fail, as if they were not installed: an empty folder counts as a package."""
    folders = {Path(entry).resolve() for entry in sys.path if entry}
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    for path in view.hidden:
        if path.resolve().parent in folders:
            modules.setdefault(path.name, None)


# --- privileges -----------------------------------------------------------------------------------------------------


def _drop_privileges(sandbox: Sandbox) -> None:
    """Drops all privileges: takes the sandbox's identity, if there is one, and loses all capabilities for good."""
    if sandbox.layers.identity:
        os.setgroups([])
        os.setresgid(sandbox.identity, sandbox.identity, sandbox.identity)
    forbid_capabilities()
    if sandbox.layers.identity:
        os.setresuid(sandbox.identity, sandbox.identity, sandbox.identity)
    drop_capabilities()
    prctl(PR_SET_DUMPABLE, 1)  # or /proc/self would be root's, and unreadable
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _hide_files(sandbox: Sandbox, folder: Path) -> None:
    if not sandbox.layers.landlock:
        return
    view = sandbox.view
    if sandbox.layers.namespaces:
        writable = [folder, COMPILED, *map(Path, SCRATCH_FOLDERS)]
        readable, listable = [*view.readable, Path("/proc")], [Path("/")]
    else:
        writable, listable, readable = [folder], [], [Path("/proc")]
        writable += [sandbox.compiled] if sandbox.compiled else []
        for path in view.readable:
            granted, listed = split_around(path, view.hidden)
            readable += granted
            listable += listed
    if sandbox.layers.namespaces and view.has_gpu:
        writable.append(Path("/proc"))  # the run's own: CUDA doesn't start unless it can write to its process's files there
    landlock.restrict(readable=readable, listable=listable, writable=writable, devices=view.devices)


# --- probing --------------------------------------------------------------------------------------------------------


def failure_of(attempt: Callable[[], None]) -> str | None:
    """Why `attempt` fails in a separate process; None if it succeeds."""
    answer, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except BaseException as error:
            os.write(say, (str(error) or type(error).__name__).encode()[:1000])
        os._exit(0)
    os.close(say)
    with os.fdopen(answer, "rb") as words:
        reason = words.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return reason or ("its process was killed" if status else None)


def _try_namespaces(view: View, folder: Path) -> None:
    """Raises OSError if no root folder can be built in `folder`."""
    unshare_all()
    problem = failure_of(lambda: enter_root(view, folder, compiled=None, owner=os.geteuid(), memory_bytes=2**20))
    if problem:
        raise OSError(problem)


def needed_files() -> list[Path]:
    """Files that every run reads under its own identity: the farm's code, and one of Python and of torch each."""
    torch = importlib.util.find_spec("torch")
    named = [os.__file__, torch.origin if torch else None]
    return [*(Path(name) for name in named if name), *research_folder().rglob("*.py")]


def shut_to_others(path: Path, *, within: Sequence[Path]) -> Path | None:
    """The file, or the folder around it below one of `within`, that only its owner or group may read; None if all may."""
    roots = [root for root in within if path.is_relative_to(root)]
    if not roots or not path.exists():
        return None
    inside = [path, *(folder for folder in path.parents if folder.is_relative_to(roots[0]))]
    for part in inside:
        needed = stat.S_IROTH | stat.S_IXOTH if part.is_dir() else stat.S_IROTH
        if part.stat().st_mode & needed != needed:
            return part
    return None


def _try_identity(view: View, *, namespaces: bool) -> None:
    """Raises OSError if another user can't read what a run needs: Python is in root's home, or files were installed with a
    umask that shuts others out.
    """
    for path in needed_files():
        closed = shut_to_others(path, within=view.readable)
        if closed is not None:
            raise OSError(f"another user can't read {closed}")
    os.setgroups([])
    os.setresgid(FIRST_IDENTITY, FIRST_IDENTITY, FIRST_IDENTITY)
    os.setresuid(FIRST_IDENTITY, FIRST_IDENTITY, FIRST_IDENTITY)
    if namespaces:
        return  # files in a home are bound to paths that everybody can reach
    for path in view.readable:
        path.stat()
