"""The cores that a process may use obey its container's CPU quota, wherever that is set."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from research.cpu_cores import usable_cores

FREE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def played(root: Path, files: Mapping[str, str]) -> Path:
    """A folder in which files stand in for the kernel's."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def v1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": "100000"}


PROC, CGROUP = "proc/self/cgroup", "sys/fs/cgroup"
ONE, MANY, NONE = "100000 100000", "99900000 100000", "max 100000"


MOUNTS = "proc/self/mountinfo"


def mounted(top: str, place: str, kind: str, options: str = "rw") -> str:
    """A line of mountinfo."""
    return f"32 31 0:29 {top} /{place} rw,nosuid shared:9 - {kind} {kind} {options}"


@pytest.mark.parametrize(
    "files",
    [
        {PROC: "0::/", f"{CGROUP}/cpu.max": ONE},
        {PROC: "0::/", f"{CGROUP}/cpu.max": "50000 100000"},  # half a core is still one thread
        {PROC: "0::/", f"{CGROUP}/cpu.max": "199000 100000"},
        {PROC: "0::/a/b", f"{CGROUP}/a/b/cpu.max": NONE, f"{CGROUP}/a/cpu.max": ONE, f"{CGROUP}/cpu.max": NONE},
        {PROC: "0::/a/b", f"{CGROUP}/a/b/cpu.max": ONE, f"{CGROUP}/a/cpu.max": MANY},
        {PROC: "0::/docker/of-the-host", f"{CGROUP}/cpu.max": ONE},
        {PROC: "0::/../..", f"{CGROUP}/cpu.max": ONE},
        {f"{CGROUP}/cpu.max": ONE},
        {PROC: "5:cpu,cpuacct:/\n0::/", **v1(f"{CGROUP}/cpu,cpuacct", 100_000)},
        {PROC: "5:cpuacct,cpu:/a", **v1(f"{CGROUP}/cpu/a", 150_000)},
        {PROC: "5:cpu:/a/b\n4:memory:/", **v1(f"{CGROUP}/cpu/a/b", -1), **v1(f"{CGROUP}/cpu/a", 100_000)},
        {PROC: "5:cpu:/docker/of-the-host", **v1(f"{CGROUP}/cpu", 100_000)},
        # a hybrid: version 1 has the controller, version 2 is mounted beside it
        {
            PROC: "1:cpu:/a\n0::/a",
            MOUNTS: mounted("/", f"{CGROUP}/cpu", "cgroup", "rw,cpu") + "\n" + mounted("/", f"{CGROUP}/unified", "cgroup2"),
            **v1(f"{CGROUP}/cpu/a", 100_000),
        },
        {
            PROC: "1:cpuset:/a\n0::/a/b",
            MOUNTS: mounted("/", f"{CGROUP}/cpuset", "cgroup", "rw,cpuset")
            + "\n"
            + mounted("/", f"{CGROUP}/unified", "cgroup2"),
            f"{CGROUP}/unified/a/cpu.max": ONE,
        },
        # mounted in another place, as by systems without systemd
        {PROC: "3:cpu:/x", MOUNTS: mounted("/", "cgroup/cpu", "cgroup", "rw,cpu"), **v1("cgroup/cpu/x", 100_000)},
        # a container that sees the host's path, of which only its own part is mounted
        {
            PROC: "3:cpu,cpuacct:/docker/7/inner",
            MOUNTS: mounted("/docker/7", f"{CGROUP}/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            **v1(f"{CGROUP}/cpu,cpuacct/inner", 100_000),
        },
        {
            PROC: "0::/docker/7/inner",
            MOUNTS: mounted("/docker/7", CGROUP, "cgroup2"),
            f"{CGROUP}/inner/cpu.max": NONE,
            f"{CGROUP}/cpu.max": ONE,
        },
    ],
)
def test_a_quota_of_one_core_leaves_one(tmp_path: Path, files: Mapping[str, str]) -> None:
    assert usable_cores(played(tmp_path, files)) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {PROC: "0::/a", f"{CGROUP}/a/cpu.max": NONE, f"{CGROUP}/cpu.max": MANY},
        {PROC: "0::/a", f"{CGROUP}/b/cpu.max": ONE},  # another's
        {PROC: "5:cpu:/", **v1(f"{CGROUP}/cpu", -1)},
        {PROC: "5:cpuset:/", **v1(f"{CGROUP}/cpuset", 100_000)},
        {PROC: "nonsense", f"{CGROUP}/cpu.max": "nonsense"},
    ],
)
def test_without_a_quota_the_affinity_counts(tmp_path: Path, files: Mapping[str, str]) -> None:
    assert usable_cores(played(tmp_path, files)) == FREE


def test_this_machine_has_cores() -> None:
    assert 1 <= usable_cores() <= FREE
