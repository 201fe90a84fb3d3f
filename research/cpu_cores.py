"""The CPU cores that a process may use, container quotas obeyed. Standard library only."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may use, at least 1: by its affinity, and by the CPU quota of each cgroup that it is in.

    `root` is where /proc and /sys are looked for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_quota(folder) for folder in _cpu_cgroups(root))
    return max(1, int(min([float(cores), *(quota for quota in quotas if quota is not None)])))


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """A mounted hierarchy of cgroups that can hold a CPU quota: version 2's, or version 1's with the controller `cpu`."""

    version: int
    folder: Path
    top: str = "/"
    """The cgroup that is mounted there; a container's may be one of the host's."""


def _cpu_cgroups(root: Path) -> Iterator[Path]:
    """Folders of this process's cgroups that can hold a CPU quota, from the innermost out."""
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup") or ["0::/"]:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if hierarchy == "0" else 1
        if version == 1 and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version:
                inner = _inside(mount, path)
                yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(mount.folder))


def _inside(mount: _Mount, path: str) -> Path:
    """The folder of the cgroup `path`. In a container that path may be the host's, which is not below the mount: then the
    mount itself is the container's.
    """
    below = path.removeprefix(mount.top) if mount.top != "/" else path
    inner = mount.folder / below.lstrip("/")
    return mount.folder if ".." in inner.parts else inner


def _mounts(root: Path) -> list[_Mount]:
    """The hierarchies that /proc/self/mountinfo lists; if it lists none, those in their usual places."""
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        version = {"cgroup2": 2, "cgroup": 1}.get(kind[0])
        if len(fields) > 4 and (version == 2 or (version == 1 and "cpu" in kind[-1].split(","))):
            found.append(_Mount(version=version, folder=root / fields[4].lstrip("/"), top=fields[3]))
    usual = root / "sys/fs/cgroup"
    places = ((2, usual), *((1, usual / name) for name in ("cpu", "cpu,cpuacct", "cpuacct,cpu")))
    return found or [_Mount(version=version, folder=folder) for version, folder in places]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


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
