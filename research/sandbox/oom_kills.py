"""How often the kernel has killed a process because memory ran out: its own counters, which no run can write."""

from pathlib import Path


def oom_kills(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The kernel's count of processes that it killed for memory: of this process's cgroup if that can be read, else of the
    machine; 0 where there is neither. Only a difference between two readings says something.
    """
    for path in (*_files_of_group(proc, groups), proc / "vmstat"):
        count = _counted(path)
        if count is not None:
            return count
    return 0


def _files_of_group(proc: Path, groups: Path) -> list[Path]:
    """Where the count of this process's cgroup may be, whose path differs within a container."""
    found = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        name, root = None, groups
        if number == "0" and not controllers:
            name = "memory.events"
        elif "memory" in controllers.split(","):
            name, root = "memory.oom_control", groups / "memory"
        if name is not None:
            found += [root / path.lstrip("/") / name, root / name]
    return found


def _counted(path: Path) -> int | None:
    words = dict(line.split()[:2] for line in _text(path).splitlines() if len(line.split()) >= 2)
    count = words.get("oom_kill", "")
    return int(count) if count.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
