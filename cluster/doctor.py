"""What works on this machine, and the cure for what doesn't."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.client import connect
from cluster.cost import free_disk
from cluster.hardware import Device, busy_processes, platform_identity
from cluster.home import Home, find_checkout, home_option
from cluster.ray_cluster.exposure import RayHere, look_at_ray
from cluster.sandbox_checks import layers_here, sandbox_findings
from research.contract import Contract
from research.errors import UserError
from research.gpu_driver import driver_version
from research.gpu_memory import GIB
from research.profiles import choose_profile, profile_named
from research.text import counted, size

State = Literal["ok", "warn", "missing"]

LEAST_FREE_DISK = 5 * 10**9
FLASH_4_GENERATIONS = (9, 10)
"""Hopper and its successor: GPUs whose runs can use flash-attn-4 (research/kernels/attention.py)."""
TORCH_SECONDS = 120.0

TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "available": cuda,
                  "mps": torch.backends.mps.is_available()}))
"""
"""Run in a process of its own: importing torch takes seconds, and asking for CUDA makes a context."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    cure: str = ""
    """What to do about it; empty where it is well."""


def examine(home: Home, cache: Path, devices: Sequence[Device]) -> list[Check]:
    """All checks, in the order in which they matter."""
    return [
        _python(),
        _torch(devices),
        *(_device(device) for device in devices),
        *_compiler(devices),
        *_data(devices, cache),
        _git(),
        _checkout(home),
        _key(),
        *(_disk(name, folder) for name, folder in (("home", home.folder), ("cache", cache))),
        *_flash_attention(devices),
        _running(home),
        *_sandbox(),
        *_ray(),
    ]


def check_lines(checks: Sequence[Check]) -> list[str]:
    """What people read: a line a check, and the cure below it."""
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8}{check.name:<14}{check.found}")
        if check.cure:
            lines.append(f"{'':<22}-> {check.cure}")
    return lines


def _python() -> Check:
    system = f"{platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        cure = "runs need Linux: use a Linux machine or container"
        return Check(name="python", state="warn", found=f"{platform.python_version()} on {system}", cure=cure)
    return Check(name="python", state="ok", found=f"{platform.python_version()} on {system}")


def _torch(devices: Sequence[Device]) -> Check:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", TORCH_PROBE], capture_output=True, text=True, timeout=TORCH_SECONDS, check=False
        )
        found: dict[str, Any] = json.loads(probe.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Check(
            name="torch", state="missing", found="its import hangs", cure="reinstall it: uv sync --reinstall-package torch"
        )
    except (IndexError, ValueError):
        last = (probe.stderr.strip().splitlines() or ["no output"])[-1]
        return Check(name="torch", state="missing", found=last, cure="install it: uv sync")
    text = f"{found['version']}, CUDA {found['cuda'] or 'not built in'}"
    if any(device.kind == "cuda" for device in devices) and not found["available"]:
        driver = driver_version() or "unknown"
        cure = f"install a torch that fits the driver ({driver}), or update the driver"
        return Check(name="torch", state="missing", found=f"{text}; it can't use the GPU", cure=cure)
    return Check(name="torch", state="ok", found=text)


def _device(device: Device) -> Check:
    profile = choose_profile(device.torch_device, device.memory_bytes)
    free = f"{device.free_bytes / GIB:.0f} of {device.memory_bytes / GIB:.0f} GB free"
    found = f"{platform_identity(device)}; {free}; profile {profile} ({profile_named(profile).what_for})"
    others = busy_processes(device)
    if others:
        named = ", ".join(f"{process.name} ({process.pid})" for process in others[:3])
        cure = f"end what else computes there, or choose other --devices: {named}"
        return Check(name=device.key, state="warn", found=found, cure=cure)
    return Check(name=device.key, state="ok", found=found)


def _compiler(devices: Sequence[Device]) -> list[Check]:
    """torch.compile on a GPU builds its launchers with the C compiler."""
    if all(device.kind != "cuda" for device in devices):
        return []
    for name in (os.environ.get("CC"), "gcc", "cc", "clang"):
        path = name and shutil.which(name)
        if path:
            return [Check(name="C compiler", state="ok", found=path)]
    return [Check(name="C compiler", state="missing", found="none", cure="torch.compile needs one: install gcc")]


def _data(devices: Sequence[Device], cache: Path) -> list[Check]:
    profiles = dict.fromkeys(choose_profile(device.torch_device, device.memory_bytes) for device in devices)
    return [_prepared(profile_named(profile).contract, cache) for profile in profiles]


def _prepared(contract: Contract, cache: Path) -> Check:
    from research.data.prepare import find_prepared

    try:
        data = find_prepared(contract, cache=cache)
    except UserError:
        found = f"profile {contract.profile} ({contract.source}) is not prepared"
        return Check(name="data", state="warn", found=found, cure=f"farm prepare --profile {contract.profile}")
    return Check(
        name="data", state="ok", found=f"profile {contract.profile}: {data.train_rows:,} training rows in {data.folder}"
    )


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check(name="git", state="missing", found="none", cure="install git")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Check(name="git", state="ok", found=version)


def _checkout(home: Home) -> Check:
    checkout = find_checkout()
    if checkout is None:
        cure = "start commands in a checkout to have the branches there"
        return Check(name="checkout", state="warn", found=f"none here: branches go to {home.folder / 'repository'}", cure=cure)
    if not (checkout / ".git").exists():
        found = f"{checkout} is no git repository: branches go to {home.folder / 'repository'}"
        return Check(name="checkout", state="warn", found=found, cure="git init && git add -A && git commit -m Start")
    return Check(name="checkout", state="ok", found=str(checkout))


def _key() -> Check:
    if os.environ.get("ANTHROPIC_API_KEY"):
        return Check(name="key", state="ok", found="ANTHROPIC_API_KEY is set")
    cure = "for --researcher claude set ANTHROPIC_API_KEY; search needs none"
    return Check(name="key", state="warn", found="ANTHROPIC_API_KEY is not set", cure=cure)


def _disk(name: str, folder: Path) -> Check:
    try:
        free = free_disk(folder)
    except OSError as error:
        return Check(name=name, state="missing", found=f"{folder}: {error.strerror}", cure=f"choose another --{name}")
    found = f"{folder}: {size(free)} free"
    if free < LEAST_FREE_DISK:
        return Check(name=name, state="warn", found=found, cure=f"free some space, or choose another --{name}")
    return Check(name=name, state="ok", found=found)


def _flash_attention(devices: Sequence[Device]) -> list[Check]:
    """A line for each package of kernels that one of the GPUs is the fastest with."""
    gpus = [device for device in devices if device.kind == "cuda"]
    newer = [device for device in gpus if device.capability and device.capability[0] in FLASH_4_GENERATIONS]
    checks = []
    if newer:
        cure = "faster attention on this GPU: uv sync --extra hopper (compiles when it is first used)"
        checks.append(_kernels("flash-attn-4", cure))
    if len(newer) < len(gpus):
        checks.append(_kernels("flash-attn", "faster windows of attention: uv sync --extra flash (builds from source)"))
    return checks


def _kernels(package: str, cure: str) -> Check:
    try:  # by its record, since importing it would import torch
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=package, state="warn", found="not installed: slower kernels are used", cure=cure)
    return Check(name=package, state="ok", found=version)


def _running(home: Home) -> Check:
    client = connect(home)
    if client is None:
        return Check(name="farm", state="ok", found="none is running on this home")
    return Check(name="farm", state="ok", found=f"process {client.pid} is running on this home: farm status{home_option(home)}")


def _sandbox() -> list[Check]:
    """What a run that fools the judge or harms the machine would have to get out of."""
    return [
        Check(name=name, state="warn" if cure else "ok", found=found, cure=cure)
        for name, found, cure in sandbox_findings(layers_here())
    ]


def _ray() -> list[Check]:
    """Whether a cluster is up, and who could run code on it: Ray runs what anybody sends to its ports."""
    ray = look_at_ray()
    if ray.address is None and not ray.processes:
        return [Check(name="ray", state="ok", found="no cluster is up here: farm run starts its own where it needs one")]
    where = f"a cluster is up at {ray.address}" if ray.address else "processes of Ray are up, of no cluster that answers"
    found = f"{where}; {counted(ray.processes, 'process', 'processes')} here"
    return [Check(name="ray", state="ok", found=found), _ray_ports(ray), _ray_token(ray)]


def _ray_ports(ray: RayHere) -> Check:
    if not ray.open_ports:
        return Check(name="ray ports", state="ok", found="none can be reached from other machines")
    named = ", ".join(f"{port.port} ({port.process})" for port in ray.open_ports)
    cure = (
        "let only the cluster's nodes reach them (private network, firewall); on a single machine: "
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 ray start --head --node-ip-address=127.0.0.1"
    )
    return Check(name="ray ports", state="warn", found=f"other machines may reach {named}", cure=cure)


def _ray_token(ray: RayHere) -> Check:
    if ray.token:
        return Check(name="ray token", state="ok", found="asked for (RAY_AUTH_MODE=token)")
    cure = "ray get-auth-token --generate, then start Ray anew with RAY_AUTH_MODE=token on each node (docs/operations.md)"
    found = "not asked for: who reaches a port can run any code" + ("" if ray.open_ports else ", each user of this machine too")
    return Check(name="ray token", state="warn", found=found, cure=cure)
