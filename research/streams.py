"""Standard streams that are closed, broken, narrow or for answers alone, and what the system refuses, in one line."""

import errno
import io
import os
import sys
from pathlib import Path

ELSEWHERE = "choose another folder (--home, --cache)"
IN_A_COPY = "work in a copy of the checkout that can be written"

REFUSALS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENOTDIR: "there is a file where a folder should be: remove it",
    errno.EEXIST: "something is in the way: remove it",
    errno.EISDIR: "there is a folder where a file should be: remove it",
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "mend the symbolic link",
    errno.ESTALE: "mount the file system again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "free some memory",
}
"""Errors that the machine is to blame for, not the code, by their number, with what to do; empty: only another place helps."""

EVERYWHERE = (errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Those that another folder would not change."""

PACKAGES = ("research", "results", "agent", "cluster")
"""The farm's own packages: a module of theirs that is missing is a fault of the code."""

VIRTUAL = ("/proc/", "/sys/", "/dev/")
"""Folders of the kernel, in which no file can be made."""


def refusal(error: OSError, *, checkout: Path | None = None) -> str | None:
    """What the system refused and what to do, in one line; None for an error that may be a fault of the code.

    No option moves the files of `checkout`, except for those below its folder `results`.
    """
    cure = REFUSALS.get(error.errno or 0)
    if error.errno == errno.ENOENT and str(error.filename).startswith(VIRTUAL):
        cure = "nothing can be made there"
    if cure is None:
        return None
    cures = [cure] if cure else []
    if error.errno not in EVERYWHERE:
        cures.append(IN_A_COPY if _is_fixed(error.filename, checkout) else ELSEWHERE)
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror}: {', or '.join(cures)}."


def _is_fixed(name: object, checkout: Path | None) -> bool:
    """Whether this is the name of a file of the checkout's own."""
    if checkout is None or not isinstance(name, str | os.PathLike):
        return False
    path = Path(name).absolute()
    return path.is_relative_to(checkout) and not path.is_relative_to(checkout / "results")


def installation_refusal(error: Exception) -> str | None:
    """What to say of a package that is missing, or of a database that lacks memory or disk; None for a fault of the code."""
    if isinstance(error, ModuleNotFoundError) and error.name and (package := error.name.partition(".")[0]) not in PACKAGES:
        cure = "install what the farm needs (`uv sync` in its checkout)"
        return f"The package {package} is missing in {sys.executable}: {cure}."
    duckdb = sys.modules.get("duckdb")
    if duckdb is not None and isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException)):
        said = " ".join(str(error).split())[:400]
        return f"The database can't do that ({said}): free memory or disk space, and try again."
    return None


def output_refusal() -> str | None:
    """What to do if standard output can't be written, in one line; None if it can.

    Python has kept what could not be, unless nothing is buffered: then a line end is tried.
    """
    try:
        sys.stdout.flush()
        if getattr(sys.stdout, "write_through", False):
            sys.stdout.write("\n")
    except OSError as error:
        return f"standard output can't be written ({error.strerror}): send it elsewhere, or free some space there."
    return None


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


def own_output() -> int:
    """A descriptor of what standard output is now, for this process's answers. What is printed from now on, by any library,
    goes to standard error.
    """
    own = os.dup(1)
    os.dup2(2, 1)
    return own
