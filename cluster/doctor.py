"""Checks what works on this machine, and says how to fix what doesn't. Also the sandbox warnings before a farm starts."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.repo.branch_log import numbers_given_out
from agent.researchers.coding_agents import AGENTS, version_of
from agent.researchers.containment import Containment, containment_here
from agent.researchers.make import CLAUDE_GATEWAY, CLAUDE_KEYS
from cluster.hardware import Device, busy_processes, platform_identity
from cluster.home import Home, find_checkout, home_option
from cluster.local_api import connect, silent_farm
from cluster.ray_cluster.exposure import RayHere, look_at_ray
from cluster.start_estimate import free_disk
from research.command_hints import to_type
from research.contract import Contract
from research.errors import UserError
from research.files import try_to_write
from research.formatting import counted, size
from research.gpu_driver import driver_version
from research.gpu_memory import GIB
from research.profiles import choose_profile, profile_named
from research.result import SandboxMode
from research.sandbox.layers import Layers, check_strict, probe
from research.sandbox.visible import view_of_run
from results.journal import DamagedLine, read_journal
from results.journal_repair import plan_repair, repair

State = Literal["ok", "warn", "missing"]

MOST_LINES = 3
"""Damaged lines of the journal that are shown."""

LEAST_FREE_DISK = 5 * 10**9
"""Free disk space in bytes below which the doctor warns."""

FLASH_4_GENERATIONS = (9, 10)
"""Major compute capabilities (Hopper, Blackwell) of GPUs that flash-attn-4 runs on (research/kernels/attention.py)."""

TORCH_SECONDS = 120.0
"""Seconds that importing torch may take."""

TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "available": cuda,
                  "mps": torch.backends.mps.is_available()}))
"""
"""A program that runs in its own process: importing torch takes seconds, and asking for CUDA creates a context."""

PACKAGES_PROBE = """
import importlib, importlib.util, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        if name.startswith("?"):
            name = name[1:]
            if importlib.util.find_spec(name) is None:
                raise ImportError(f"No module named {name!r}")
        else:
            importlib.import_module(name)
    except Exception as error:
        failed[name] = (str(error) or type(error).__name__).splitlines()[0]
print(json.dumps(failed))
"""
"""A program that tries to import packages, or to find those with a `?` before their name, and prints why some can't be."""

PACKAGES = ("numpy", "safetensors", "pynvml", "psutil", "rustbpe", "tiktoken", "pyarrow.parquet", "huggingface_hub", "duckdb",
            "matplotlib", "scipy", "?pydoe", "?anthropic", "pydantic_core", "jiter", "git.cmd", "ray", "rich",
            "platformdirs")  # fmt: skip
"""What pyproject.toml requires, other than torch, by the names that are imported. Two that take seconds to import, and are
Python alone, are only found; the client of Claude with the compiled parts that it needs."""

CURES: Mapping[str, str] = {
    "namespaces": "allow user namespaces: sysctl -w user.max_user_namespaces=15000 "
    "(Debian: kernel.unprivileged_userns_clone=1, Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0); "
    "in a container: --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt systempaths=unconfined",
    "landlock": "use Linux 5.13 or later, booted with landlock in lsm=; in a container, a runtime that permits it",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    "identity": "runs stay root, without root's capabilities: start the farm as an ordinary user, or install Python and the "
    "checkout where other users can read them",
}
"""How to get each layer of the sandbox."""

NO_LINUX = "only Linux has these layers: elsewhere, run only a train.py that you trust"


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    state: State
    found: str
    cure: str = ""
    """How to fix it; empty if the state is `ok`."""


def examine(home: Home, cache: Path | UserError, devices: Sequence[Device]) -> Iterator[Check]:
    """All checks, the most important first, each as soon as it is known: on a busy machine some take many seconds.

    `cache` may be the reason why there is no folder for prepared data.
    """
    yield _python()
    with ThreadPoolExecutor() as threads:  # what takes seconds in processes of its own goes on beside the rest
        torch, packages = threads.submit(_torch, devices), threads.submit(_packages)
        agents = threads.submit(_coding_agents)
        yield torch.result()
        yield packages.result()
        yield from _quick_checks(home, cache, devices)
        of_agents = agents.result()
    yield from _sandbox()  # which forks, so that no thread may run meanwhile
    yield from of_agents
    yield _command(containment_here())
    yield from _ray()


def _quick_checks(home: Home, cache: Path | UserError, devices: Sequence[Device]) -> Iterator[Check]:
    """The checks that take less than a second, as `examine` does them."""
    yield from (_device(device) for device in devices)
    yield from _compiler(devices)
    yield from [] if isinstance(cache, UserError) else _data(devices, cache)
    yield _git()
    yield _checkout(home)
    yield _key()
    yield _disk("home", home.folder)
    yield _journal(home)
    if isinstance(cache, UserError):
        yield Check(name="cache", state="missing", found="no folder", cure=str(cache))
    else:
        yield _disk("cache", cache)
    yield from _flash_attention(devices)
    yield _running(home)


def check_lines(checks: Sequence[Check]) -> list[str]:
    """The checks as text: one line per check, with the cure below it."""
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8}{check.name:<14}{check.found}")
        if check.cure:
            lines.append(f"{'':<22}-> {check.cure}")
    return lines


def layers_here() -> Layers:
    """The layers that would confine a run on this host."""
    return probe(view_of_run(private=(), gpu_minor=None))


def sandbox_findings(layers: Layers) -> list[tuple[str, str, str]]:
    """(layer, what was found, cure) for each finding; the cure is empty if the layer is fine."""
    if not layers.linux:
        return [("sandbox", "a clean environment, resource limits and supervision; no other layer", NO_LINUX)]
    findings = [("sandbox", ", ".join(layers.names()), "")]
    findings += [(f"no {name}", problem, CURES[name]) for name, problem in layers.problems.items()]
    return findings


def lines_before_runs(mode: SandboxMode, layers: Layers) -> list[str]:
    """The warnings about the sandbox for the start of a farm; none if it is complete.

    Raises UserError if `mode` is `strict` and a layer is missing.
    """
    if mode == "off":
        return ["the sandbox is off: train.py runs with your own rights"]
    if mode == "strict":
        check_strict(layers)
    if not layers.linux:
        return [f"no sandbox here: {NO_LINUX}"]
    if not layers.problems:
        return []
    return [f"the sandbox here has no {' and no '.join(layers.problems)}: {to_type('farm doctor')} says why, and how to fix it"]


def _python() -> Check:
    system = f"{platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        cure = "runs need Linux: use a Linux machine or a container"
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
            name="torch", state="missing", found="importing it hangs", cure="reinstall it: uv sync --reinstall-package torch"
        )
    except (IndexError, ValueError):
        last = (probe.stderr.strip().splitlines() or ["no output"])[-1]
        return Check(name="torch", state="missing", found=last, cure="install it: uv sync")
    text = f"{found['version']}, CUDA {found['cuda'] or 'not built in'}"
    if any(device.kind == "cuda" for device in devices) and not found["available"]:
        driver = driver_version() or "unknown"
        cure = f"install a torch build for this driver ({driver}), or update the driver"
        return Check(name="torch", state="missing", found=f"{text}; it can't use the GPU", cure=cure)
    return Check(name="torch", state="ok", found=text)


def _packages() -> Check:
    """Whether the packages that the farm needs can be imported, which is tried in a process of its own."""
    try:
        command = [sys.executable, "-c", PACKAGES_PROBE, *PACKAGES]
        probe = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=False)
        failed: dict[str, str] = json.loads(probe.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        failed = {"a package": "importing it hangs"}
    except (IndexError, ValueError):
        failed = {"a package": (probe.stderr.strip().splitlines() or ["no output"])[-1]}
    if not failed:
        return Check(name="packages", state="ok", found="all that the farm needs can be imported")
    found = "; ".join(f"{name}: {why}" for name, why in failed.items())
    return Check(name="packages", state="missing", found=found, cure="install them: uv sync")


def _device(device: Device) -> Check:
    profile = choose_profile(device.torch_device, device.memory_bytes)
    free = f"{device.free_bytes / GIB:.0f} of {device.memory_bytes / GIB:.0f} GB free"
    found = f"{platform_identity(device)}; {free}; profile {profile} ({profile_named(profile).what_for})"
    others = busy_processes(device)
    if others:
        named = ", ".join(f"{process.name} ({process.pid})" for process in others[:3])
        cure = f"other processes use it: end them, or choose other --devices: {named}"
        return Check(name=device.key, state="warn", found=found, cure=cure)
    return Check(name=device.key, state="ok", found=found)


def _compiler(devices: Sequence[Device]) -> list[Check]:
    """A check for a C compiler, with which torch.compile builds its launchers on a GPU."""
    if all(device.kind != "cuda" for device in devices):
        return []
    for name in (os.environ.get("CC"), "gcc", "cc", "clang"):
        path = name and shutil.which(name)
        if path:
            return [Check(name="C compiler", state="ok", found=path)]
    return [Check(name="C compiler", state="missing", found="not found", cure="install gcc: torch.compile needs a C compiler")]


def _data(devices: Sequence[Device], cache: Path) -> list[Check]:
    profiles = dict.fromkeys(choose_profile(device.torch_device, device.memory_bytes) for device in devices)
    return [_prepared(profile_named(profile).contract, cache) for profile in profiles]


def _prepared(contract: Contract, cache: Path) -> Check:
    from research.data.prepare import find_prepared, prepare_command

    try:
        data = find_prepared(contract, cache=cache)
    except UserError:
        found = f"profile {contract.profile} ({contract.source}) is not prepared"
        return Check(name="data", state="warn", found=found, cure=prepare_command(contract, cache=cache))
    return Check(
        name="data", state="ok", found=f"profile {contract.profile}: {data.train_rows:,} training rows in {data.folder}"
    )


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check(name="git", state="missing", found="not found", cure="install git")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Check(name="git", state="ok", found=version)


def _checkout(home: Home) -> Check:
    checkout = find_checkout()
    if checkout is None:
        cure = "run commands inside a checkout to get the branches there"
        return Check(name="checkout", state="warn", found=f"none here: branches go to {home.folder / 'repository'}", cure=cure)
    if not (checkout / ".git").exists():
        from agent.repo.repository import START_GIT

        found = f"{checkout} is not a git repository: branches go to {home.folder / 'repository'}"
        return Check(name="checkout", state="warn", found=found, cure=START_GIT)
    return Check(name="checkout", state="ok", found=str(checkout))


def _key() -> Check:
    named = [name for name in CLAUDE_KEYS if os.environ.get(name)]
    gateway = os.environ.get(CLAUDE_GATEWAY)
    if named:
        where = f", for {gateway} ({CLAUDE_GATEWAY})" if gateway else ""
        return Check(name="key", state="ok", found=f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} set{where}")
    cure = "set one to use --researcher claude; search needs no key"
    return Check(name="key", state="warn", found=f"neither {' nor '.join(CLAUDE_KEYS)} is set", cure=cure)


def _disk(name: str, folder: Path) -> Check:
    """Whether a folder can be made and written, which is tried, and how much space there is."""
    try:
        try_to_write(folder)
        free = free_disk(folder)
    except OSError as error:
        found = f"{folder} can't be written ({error.strerror})"
        return Check(name=name, state="missing", found=found, cure=f"choose another --{name}, or change its permissions")
    found = f"{folder}: {size(free)} free"
    if free < LEAST_FREE_DISK:
        return Check(name=name, state="warn", found=found, cure=f"free some space, or choose another --{name}")
    return Check(name=name, state="ok", found=found)


def _journal(home: Home) -> Check:
    """Whether all that was recorded can be read."""
    damaged: list[DamagedLine] = []
    try:
        records = sum(1 for _ in read_journal(home.journal, on_damage=damaged.append))
    except OSError as error:
        return Check(name="journal", state="missing", found=f"{home.journal} can't be read ({error.strerror})",
                     cure="ask its owner, or choose another --home")  # fmt: skip
    if not damaged:
        return Check(name="journal", state="ok", found=counted(records, "record"))
    does = "; ".join(plan_repair(home.journal).lines()[:MOST_LINES])
    cure = f"{to_type(f'farm doctor{home_option(home)} --repair')} keeps a copy of the journal, and then: {does}"
    found = f"{counted(len(damaged), 'damaged line')} beside {counted(records, 'record')}"
    return Check(name="journal", state="missing" if any(not line.is_telemetry for line in damaged) else "warn", found=found,
                 cure=cure)  # fmt: skip


def repair_journal(home: Home) -> Iterator[str]:
    """Repairs the home's journal, which no farm may have open, and says what it does. Raises UserError."""
    if not home.journal.exists():
        raise UserError(f"Nothing is recorded in {home.folder}, so there is nothing to repair.")
    with home.lock():
        plan = plan_repair(home.journal)
        yield from plan.lines()
        if not plan.damaged:
            yield f"{home.journal} has no damaged line: nothing is changed."
            return
        numbers = [pair for repository in home.repositories() for pair in numbers_given_out(repository)]
        copy = repair(plan, numbers)
        yield f"{home.journal} is repaired; what it was is in {copy}."


def _flash_attention(devices: Sequence[Device]) -> list[Check]:
    """A check for each package of attention kernels that is the fastest on one of the GPUs."""
    gpus = [device for device in devices if device.kind == "cuda"]
    newer = [device for device in gpus if device.capability and device.capability[0] in FLASH_4_GENERATIONS]
    checks = []
    if newer:
        cure = "for faster attention on this GPU: uv sync --extra hopper (compiles on first use)"
        checks.append(_kernels("flash-attn-4", cure))
    if len(newer) < len(gpus):
        checks.append(_kernels("flash-attn", "for faster sliding-window attention: uv sync --extra flash (builds from source)"))
    return checks


def _kernels(package: str, cure: str) -> Check:
    try:  # by its metadata, since importing it would import torch
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=package, state="warn", found="not installed; slower kernels are used", cure=cure)
    return Check(name=package, state="ok", found=version)


def _running(home: Home) -> Check:
    client = connect(home)
    if client is None:
        silent = silent_farm(home)
        if silent:
            return Check(name="farm", state="warn", found=silent, cure="look again in some seconds")
        return Check(name="farm", state="ok", found="not running on this home")
    return Check(
        name="farm",
        state="ok",
        found=f"process {client.pid} is running on this home: {to_type(f'farm status{home_option(home)}')}",
    )


def _sandbox() -> list[Check]:
    """The sandbox layers that confine runs."""
    return [
        Check(name=name, state="warn" if cure else "ok", found=found, cure=cure)
        for name, found, cure in sandbox_findings(layers_here())
    ]


def _coding_agents() -> list[Check]:
    """A check for each coding agent that is installed, which says by what name `--researcher` knows it."""
    with ThreadPoolExecutor() as threads:  # each takes a second to start
        versions = list(threads.map(version_of, AGENTS.values()))
    found = [
        Check(name=agent.name, state="ok", found=f"{agent.program} {version}, for --researcher {agent.name}")
        for agent, version in zip(AGENTS.values(), versions, strict=True)
        if version is not None
    ]
    cure = f"for a coding agent as --researcher install one, such as {AGENTS['claude-code'].how_to_install}; search needs none"
    programs = ", ".join(agent.program for agent in AGENTS.values())
    return found or [Check(name="coding agents", state="warn", found=f"none of {programs} is on PATH", cure=cure)]


def _command(here: Containment) -> Check:
    """What contains coding agents, and the command of `--researcher command:`."""
    if here.namespaces:
        found = "command: writes its working folder and agents' own state only, and doesn't see the farm's home"
        return Check(name="agents", state="ok", found=found)
    found = "command: is bounded by Landlock only" if here.landlock else "command: may read and write whatever you may"
    problem = "; ".join(f"no {name}: {why}" for name, why in here.problems.items())
    return Check(name="agents", state="warn", found=f"{found} ({problem})", cure=CURES.get(next(iter(here.problems)), NO_LINUX))


def _ray() -> list[Check]:
    """Whether a cluster runs here, and who could run code on it: Ray executes whatever reaches its ports."""
    ray = look_at_ray()
    if ray.address is None and not ray.processes:
        return [Check(name="ray", state="ok", found="no cluster runs here; farm run starts its own if it needs one")]
    where = f"a cluster runs at {ray.address}" if ray.address else "Ray processes run, but no cluster answers"
    found = f"{where}; {counted(ray.processes, 'process', 'processes')} here"
    return [Check(name="ray", state="ok", found=found), _ray_ports(ray), _ray_token(ray)]


def _ray_ports(ray: RayHere) -> Check:
    if not ray.open_ports:
        return Check(name="ray ports", state="ok", found="not reachable from other machines")
    named = ", ".join(f"{port.port} ({port.process})" for port in ray.open_ports)
    cure = (
        "restrict them to the cluster's nodes (private network, firewall); on a single machine: "
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 ray start --head --node-ip-address=127.0.0.1"
    )
    return Check(name="ray ports", state="warn", found=f"other machines may reach {named}", cure=cure)


def _ray_token(ray: RayHere) -> Check:
    if ray.token:
        return Check(name="ray token", state="ok", found="required (RAY_AUTH_MODE=token)")
    cure = "ray get-auth-token --generate, then restart Ray with RAY_AUTH_MODE=token on each node (docs/operations.md)"
    who = "whoever reaches a port" if ray.open_ports else "every user of this machine"
    found = f"not required: {who} can run code on the cluster"
    return Check(name="ray token", state="warn", found=found, cure=cure)
