"""Runs a coding agent's command contained, and ends it with everything that it started: python -m agent.researchers.contained.

The first line of standard input is an Order. When standard input closes, whoever gave the order is gone or wants an end: then,
and when the command has ended, all its processes are killed, whatever session they are in.
"""

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from research.sandbox import machine_files
from research.sandbox.descendants import kill_descendants
from research.sandbox.layers import BROKEN
from research.sandbox.limits import MAX_TASKS
from research.sandbox.linux import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    become_subreaper,
    die_with_parent,
    drop_capabilities,
    forbid_capabilities,
    prctl,
)
from research.sandbox.machine_files import MachineFiles
from research.sandbox.namespaces import become_init, enter_namespaces

POLL_SECONDS = 0.02
"""How often it is checked whether the command has ended."""

NOT_STARTED = 127
"""Exit status if the command can't be executed, as a shell has it."""

ENDED = 128 + signal.SIGKILL
"""Exit status after standard input was closed."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A command to run, and its bounds."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    """The working folder."""
    standard_input: str = os.devnull
    """The file that it reads as its standard input, which ends with it."""
    files: MachineFiles | None
    """What it may do with files; None: everything, and it keeps its privileges."""
    namespaces: bool
    landlock: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> "Order":
        values: dict[str, Any] = json.loads(text)
        files = values.pop("files")
        lists = ("writable", "kept", "hidden")
        known = None if files is None else {name: tuple(map(Path, files[name])) for name in lists}
        return Order(
            **{**values, "arguments": tuple(values["arguments"])},
            files=None if known is None else MachineFiles(**known, temporary=Path(files["temporary"])),
        )


def main() -> int:
    """Runs the ordered command. Returns its exit status, 128 and the number of a signal that ended it, or BROKEN."""
    order = Order.from_json(sys.stdin.readline())
    become_subreaper()
    pid = os.fork()
    if pid == 0:
        _become_command(order)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the command has ended
    status = _status_or_end(pid)
    left = kill_descendants()
    if left:
        print(f"processes {left} could not be killed", file=sys.stderr, flush=True)
    return status


def _status_or_end(pid: int) -> int:
    """The exit status of the command; or ENDED, once standard input is closed and the command killed."""
    while not select.select([0], [], [], POLL_SECONDS)[0]:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
    os.kill(pid, signal.SIGKILL)  # with namespaces all processes end with it, however many they are
    return ENDED


def _become_command(order: Order) -> NoReturn:
    """Turns this process, or with namespaces one that it starts and waits for, into the command."""
    try:
        os.setsid()
        die_with_parent()
        given = os.open(order.standard_input, os.O_RDONLY)  # before files are hidden
        os.dup2(given, 0)
        if order.files is not None:
            _contain(order, order.files)
        os.chdir(order.folder)
    except OSError as error:
        print(f"the command can't be contained: {error}", file=sys.stderr, flush=True)
        os._exit(BROKEN)
    try:
        os.execvpe(order.arguments[0], order.arguments, order.environment)
    except OSError as error:
        where = "" if order.files is None else " where the farm contains it (docs/researchers.md)"
        print(f"{order.arguments[0]} can't be started{where}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_STARTED)


def _contain(order: Order, files: MachineFiles) -> None:
    if order.namespaces:
        if os.geteuid():  # the kernel's limit doesn't bind root
            _, most = resource.getrlimit(resource.RLIMIT_NPROC)
            tasks = MAX_TASKS if most == resource.RLIM_INFINITY else min(MAX_TASKS, most)
            resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
        enter_namespaces(0, inside=lambda: machine_files.enter_mounts(files), namespaces=machine_files.NAMESPACES)
    elif order.landlock:
        machine_files.restrict(files)
    if sys.platform == "linux":
        forbid_capabilities()
        drop_capabilities()
        prctl(PR_SET_DUMPABLE, 1)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    if order.namespaces:
        become_init(0)


if __name__ == "__main__":
    sys.exit(main())
