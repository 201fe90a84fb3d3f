"""The sandbox of a process that runs a researcher's train.py: layers that stack, each probed before it is relied on.

docs/threat-model.md tells which attack each layer stops. Layers are named by `Layers.names()`; what a run was really under is
recorded with it. `auto` uses what the host has, `strict` refuses a host that lacks namespaces or Landlock, `off` is for one's
own edits.
"""

import contextlib
import os
import resource
import select
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from research.errors import UserError
from research.sandbox import landlock, seccomp
from research.sandbox.linux import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    die_with_parent,
    drop_capabilities,
    forbid_capabilities,
    prctl,
    unshare,
)
from research.sandbox.namespaces import COMPILED, SCRATCH_FOLDERS, enter_root
from research.sandbox.visible import View, split_around

FIRST_IDENTITY = 790_000_000
"""User ids from here on are the runs' own: where the farm is root, every child of a judge gets one that nobody else has."""

BROKEN = 97
"""Exit status of a process that could not be put into its sandbox: not the idea's fault."""

MAX_TASKS = 4096
"""Processes and threads of a run. A limit of the kernel's, which binds every user but root."""

_NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers this host has, or a run is under."""

    identity: bool
    """A user id of its own. An ordinary user can't give one."""
    namespaces: bool
    """User (where the farm is not root), mount, pid, net, ipc and uts namespaces."""
    landlock: int
    """Its version; 0 for none."""
    seccomp: bool
    linux: bool = True
    """Without Linux there is a clean environment, bounds and supervision only."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Why a layer is missing, by its name."""

    def names(self) -> tuple[str, ...]:
        """As they are recorded."""
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
    """What one child of the judge is put into."""

    layers: Layers
    view: View
    compiled: Path | None = None
    """A folder of the judge's that this child compiles into, where its train.py is trusted; COMPILED in a root of its own."""
    identity: int
    """User and group id, where `layers` has an identity."""
    disk_bytes: int
    """All files that it may write, where it has a root of its own."""


def probe(view: View, *, platform: str = sys.platform) -> Layers:
    """The layers that work here, each tried in a process of its own that sees what a run would. Never raises."""
    if platform != "linux":
        return NO_LAYERS
    version = landlock.abi()
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        without_namespaces = _failure(lambda: _try_namespaces(view, Path(folder)))
    problems = {
        "namespaces": without_namespaces,
        "landlock": None if version else "the kernel has none, or has it turned off",
        "seccomp": _failure(lambda: seccomp.install(seccomp.run_program())),
    }
    namespaces = problems["namespaces"] is None
    if os.geteuid() == 0:
        problems["identity"] = _failure(lambda: _try_identity(view, namespaces=namespaces))
    return Layers(
        identity=problems.get("identity", "") is None,
        namespaces=namespaces,
        landlock=version,
        seccomp=problems["seccomp"] is None,
        problems={name: problem for name, problem in problems.items() if problem is not None},
    )


def check_strict(layers: Layers) -> None:
    """Raises a UserError that names what `--sandbox strict` misses here."""
    missing = [name for name, there in (("namespaces", layers.namespaces), ("Landlock", layers.landlock),
                                        ("seccomp", layers.seccomp)) if not there]  # fmt: skip
    if missing:
        raise UserError(f"This host has no {' and no '.join(missing)}, which --sandbox strict asks for: `farm doctor` says "
                        "how to get it; --sandbox auto uses what is there.")  # fmt: skip


def enter(sandbox: Sandbox, folder: Path, *, channel: int) -> None:
    """Puts this process, which has one thread only, into the sandbox for good. `folder` is its working directory.

    With namespaces, three processes come of it: this one, which stays outside and waits; the first one inside, with whose end
    the kernel ends all others inside; and one that returns from here. Those that wait pass its exit status on.
    """
    layers = sandbox.layers
    try:
        _bound_resources(sandbox)
        if layers.namespaces:
            _enter_namespaces(sandbox, folder, channel)
        else:
            _give_up_rights(sandbox)
        _hide_files(sandbox, folder)
        if layers.seccomp:
            program = seccomp.run_program(keep_attributes=not layers.namespaces, cuda=sandbox.view.has_gpu)
            seccomp.install(program)
        if layers.namespaces:
            _become_init(channel)
    except OSError as error:
        print(f"the sandbox could not be set up: {error}", file=sys.stderr, flush=True)
        os._exit(BROKEN)


def _bound_resources(sandbox: Sandbox) -> None:
    _lower_limit(resource.RLIMIT_CORE, 0)
    if sandbox.layers.identity or (sandbox.layers.namespaces and os.geteuid()):
        _lower_limit(resource.RLIMIT_NPROC, MAX_TASKS)  # counted per identity, or within the user namespace


def _lower_limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, value))


# --- namespaces -----------------------------------------------------------------------------------------------------


def _enter_namespaces(sandbox: Sandbox, folder: Path, channel: int) -> None:
    """Returns in the first process of the new namespaces, without rights; this process waits for its end."""
    _unshare_all()
    watched, held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(watched)
        _wait_outside(pid, channel)
    os.close(held)
    owner = sandbox.identity if sandbox.layers.identity else os.geteuid()
    enter_root(sandbox.view, folder, compiled=sandbox.compiled, owner=owner, memory_bytes=sandbox.disk_bytes)
    _give_up_rights(sandbox)
    die_with_parent()
    if select.select([watched], [], [], 0)[0]:  # the parent was gone before it was asked for
        os._exit(1)
    os.close(watched)


def _unshare_all() -> None:
    """New namespaces; an ordinary user gets them by a user namespace, in which it is itself."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        unshare(_NAMESPACES)
        return
    unshare(CLONE_NEWUSER | _NAMESPACES)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _become_init(channel: int) -> None:
    """Returns in a child of this process, which waits for its end: signals pass the first process of a namespace by."""
    pid = os.fork()
    if pid:
        _wait_outside(pid, channel)
    os.setsid()
    die_with_parent()


def _wait_outside(pid: int, channel: int) -> NoReturn:
    """Waits for a child, collecting what else ends, and ends as it did. It holds nothing open that others wait for."""
    prctl(PR_SET_DUMPABLE, 0)  # what it shows of itself under /proc is for root alone
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (channel, 0, 1, 2):
        os.dup2(nothing, descriptor)
    while True:
        with contextlib.suppress(InterruptedError):
            ended, status = os.wait()
            if ended == pid:
                break
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        code = 128 - code
    os._exit(code)


# --- rights ---------------------------------------------------------------------------------------------------------


def _give_up_rights(sandbox: Sandbox) -> None:
    """Another identity, where there is one; no capabilities; no way to new ones."""
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
        writable.append(Path("/proc"))  # its own: CUDA won't start where it can't overwrite files of its process there
    landlock.restrict(readable=readable, listable=listable, writable=writable, devices=view.devices)


# --- probing --------------------------------------------------------------------------------------------------------


def _failure(attempt: Callable[[], None]) -> str | None:
    """Why `attempt` fails in a process of its own; None where it succeeds."""
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
    """Raises where a root of its own can't be made over `folder`."""
    _unshare_all()
    problem = _failure(lambda: enter_root(view, folder, compiled=None, owner=os.geteuid(), memory_bytes=2**20))
    if problem:
        raise OSError(problem)


def _try_identity(view: View, *, namespaces: bool) -> None:
    """Raises where another user could not read what a run needs: most often because Python lies in root's home."""
    os.setgroups([])
    os.setresgid(FIRST_IDENTITY, FIRST_IDENTITY, FIRST_IDENTITY)
    os.setresuid(FIRST_IDENTITY, FIRST_IDENTITY, FIRST_IDENTITY)
    if namespaces:
        return  # what lies in another's home is bound where everybody can reach it
    for path in view.readable:
        path.stat()
