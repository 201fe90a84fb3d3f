"""Standard streams that are closed, broken or of a narrow encoding, and what the system refuses, in one line."""

import errno
import io
import os
import sys
from pathlib import Path

ELSEWHERE = "choose another folder (--home, --cache)"

REFUSALS = {
    errno.ENOSPC: "free some space, or choose a folder on another disk (--home, --cache)",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk (--home, --cache)",
    errno.EROFS: "choose a folder that can be written (--home, --cache)",
    errno.EACCES: f"change its permissions, or {ELSEWHERE}",
    errno.EPERM: f"change its permissions, or {ELSEWHERE}",
    errno.ENOTDIR: f"there is a file where a folder should be: remove it, or {ELSEWHERE}",
    errno.EEXIST: f"something is in the way: remove it, or {ELSEWHERE}",
    errno.EISDIR: f"there is a folder where a file should be: remove it, or {ELSEWHERE}",
    errno.EIO: f"check the disk, or {ELSEWHERE}",
    errno.ENAMETOOLONG: f"use a shorter name, or {ELSEWHERE}",
    errno.ELOOP: f"mend the symbolic link, or {ELSEWHERE}",
    errno.ESTALE: "mount the file system again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "free some memory",
}
"""Errors that the machine is to blame for, not the code, by their number, with what to do."""

VIRTUAL = ("/proc/", "/sys/", "/dev/")
"""Folders of the kernel, in which no file can be made."""


def refusal(error: OSError) -> str | None:
    """What the system refused and what to do, in one line; None for an error that may be a fault of the code."""
    cure = REFUSALS.get(error.errno or 0)
    if error.errno == errno.ENOENT and str(error.filename).startswith(VIRTUAL):
        cure = f"nothing can be made there: {ELSEWHERE}"
    if cure is None:
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror}: {cure}."


def prepare_streams() -> None:
    """Makes the standard streams usable whatever the caller left.

    Closed ones lead nowhere, so that no other file gets their numbers; characters that an encoding lacks are escaped.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Leads standard output nowhere from now on, since nothing can be written there: Python would try again at its exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
