"""Linux namespaces of a run: it sees no network, no other process and no mount of the machine's."""

import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from research.sandbox.linux import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    die_with_parent,
    prctl,
    unshare,
)

NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS


def enter_namespaces(channel: int, *, inside: Callable[[], None], namespaces: int = NAMESPACES) -> None:
    """Returns in the first process of the new namespaces, once `inside` has run there; this process waits for its end."""
    nothing = os.open(os.devnull, os.O_RDWR)  # `inside` may change what is found at its path
    unshare_all(namespaces)
    watched, held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(watched)
        _wait_outside(pid, channel, nothing, dies_alike=True)
    os.close(held)
    os.close(nothing)
    inside()
    die_with_parent()
    if select.select([watched], [], [], 0)[0]:  # the parent ended before die_with_parent
        os._exit(1)
    os.close(watched)


def unshare_all(namespaces: int = NAMESPACES) -> None:
    """Enters new namespaces; an ordinary user gets them through a user namespace, in which it keeps its id."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        unshare(namespaces)
        return
    unshare(CLONE_NEWUSER | namespaces)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def become_init(channel: int) -> None:
    """Returns in a child of this process, which waits for its end: the first process of a namespace gets few signals."""
    pid = os.fork()
    if pid:
        _wait_outside(pid, channel, os.open(os.devnull, os.O_RDWR))
    os.setsid()
    die_with_parent()


def _wait_outside(pid: int, channel: int, nothing: int, *, dies_alike: bool = False) -> NoReturn:
    """Waits for a child, reaping others until then, and exits as the child did. It keeps nothing open that others wait for.

    `nothing` is /dev/null, opened. With `dies_alike` a signal that killed the child kills this process, too; otherwise the
    signal becomes an exit status.
    """
    prctl(PR_SET_DUMPABLE, 0)  # only root may read what /proc shows of it
    for descriptor in (channel, 0, 1, 2):
        os.dup2(nothing, descriptor)
    while True:
        with contextlib.suppress(InterruptedError):
            ended, status = os.wait()
            if ended == pid:
                break
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and dies_alike:  # the first process of a namespace: nothing inside can kill it
        os.kill(os.getpid(), -code)
    if code < 0:
        code = 128 - code
    os._exit(code)
