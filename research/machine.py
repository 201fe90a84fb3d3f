"""The CPU cores of this machine that a process may use. Standard library only."""

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may use, at least 1: by its affinity, and by the CPU quota of each cgroup that it is in.

    `root` is where /proc and /sys are looked for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_quota(folder) for folder in _cpu_cgroups(root))
    return max(1, int(min([float(cores), *(quota for quota in quotas if quota is not None)])))


def _cpu_cgroups(root: Path) -> Iterator[Path]:
    """Folders of this process's cgroups that can hold a CPU quota, from the innermost out.

    In a container the path in /proc may be the host's, which is not below the mount: then the mount itself is the container's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy != "0" and "cpu" not in controllers.split(","):
            continue
        mounts = root / "sys/fs/cgroup"
        named = mounts if hierarchy == "0" else mounts / controllers
        mount = mounts / "cpu" if hierarchy != "0" and (mounts / "cpu").exists() else named
        inner = mount / path.lstrip("/")
        if ".." in inner.parts:
            inner = mount
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(mount))


def _quota(cgroup: Path) -> float | None:
    """The cores that a cgroup may keep busy, by version 2's or version 1's files; None without a limit."""
    try:
        if (cgroup / "cpu.max").exists():
            limit, _, period = (cgroup / "cpu.max").read_text().strip().partition(" ")
        else:
            limit, period = ((cgroup / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return int(limit) / int(period) if limit.isdigit() and period.isdigit() and int(period) else None
