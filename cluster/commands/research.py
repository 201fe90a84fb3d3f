"""`farm run`, `farm try`, `farm stop`."""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.recorded import read_history
from cluster.cost import data_line, estimate
from cluster.hardware import Device, DeviceKind, busy_processes, choose_devices, detect_devices, limited, platform_identity
from cluster.home import Home, find_cache, find_home, home_option
from cluster.sandbox_checks import layers_here, lines_before_runs
from cluster.tags import todays_tag
from research.errors import UserError
from research.profiles import memory_limit
from research.text import counted, duration
from results.history import BranchHistory

if TYPE_CHECKING:
    from cluster.display import Display
    from cluster.driver import FarmSummary
    from cluster.options import EngineKind, FarmOptions
    from results.experiment import ExperimentRecord


def run(options: argparse.Namespace) -> int:
    """Says what it will cost, then runs the farm until its limits or Ctrl-C."""
    from cluster.display import make_display

    farm_options = make_options(options, researcher=options.researcher)
    for line in before_start(farm_options):
        print(line, flush=True)
    summary = run_to_end(farm_options, make_display())
    for line in (*summary_lines(summary), *look_lines(farm_options.home)):
        print(line)
    return 0


def try_idea(options: argparse.Namespace) -> int:
    """One experiment with the working train.py. Exit status 1 where it didn't score."""
    from cluster.by_hand import on_the_checkouts_branch, try_once, where_the_edit_is
    from cluster.display import make_display

    farm_options = make_options(options, researcher="search")
    if options.tag is None:
        farm_options = on_the_checkouts_branch(farm_options)
    for line in lines_before_runs(farm_options.sandbox, layers_here()):
        print(line, flush=True)
    display = make_display()
    try:
        record = asyncio.run(try_once(farm_options, options.message, display))
    finally:
        display.close()
    seconds = sum(result.total_seconds or 0.0 for result in record.runs)
    show = f"farm show{home_option(farm_options.home)} {record.experiment.id}"
    print(f"{outcome(record)}\n  {record.experiment.id}, {duration(seconds)}; all of it: {show}")
    edit = where_the_edit_is(record, farm_options.repo)
    if edit:
        print(f"  {edit}")
    return 0 if record.verdict is not None and record.verdict.decision in ("keep", "discard") else 1


def stop(options: argparse.Namespace) -> int:
    """Asks the running farm to end."""
    from cluster.client import connect

    client = connect(find_home(options.home))
    if client is None:
        raise UserError(f"No farm is running on {find_home(options.home).folder}.")
    client.stop()
    print(f"The farm (process {client.pid}) is ending.")
    return 0


def make_options(options: argparse.Namespace, *, researcher: str) -> "FarmOptions":
    """The command line as the driver's options."""
    from agent.repo.repository import repository_for
    from cluster.options import FarmOptions

    check_researcher(researcher)
    home = find_home(options.home)
    address = getattr(options, "address", None)
    engine = chosen_engine(getattr(options, "engine", "local"), options.devices, address)
    kind = device_kind(options.devices)
    devices = local_devices(options.devices, engine)
    first = (kind or "cuda") if engine == "ray" else devices[0].kind  # of a cluster's nodes nothing is known yet
    gpu_memory = memory_limit(options.gpu_memory, first)
    if engine == "local":
        devices = tuple(limited(device, gpu_memory) for device in devices)
    return FarmOptions(
        repo=repository_for(Path.cwd(), home.folder, renew=True),
        home=home,
        cache=find_cache(options.cache),
        tag=options.tag or todays_tag(),
        researcher=researcher,
        profile=options.profile,
        recipe=options.recipe,
        budget=options.budget,
        source=options.source,
        num_shards=options.num_shards,
        devices=devices,
        engine=engine,
        device_kind=kind,
        gpu_indices=gpu_indices(options.devices),
        cache_asked_for=options.cache,
        address=address,
        rule=options.rule,
        sandbox=options.sandbox,
        gpu_memory_bytes=gpu_memory,
        # what only `farm run` has
        loops=getattr(options, "loops", None),
        experiments=getattr(options, "experiments", None),
        hours=getattr(options, "hours", None),
        max_cost=getattr(options, "max_cost", None),
        model=getattr(options, "model", None),
        dirty=getattr(options, "dirty", False),
        samples=getattr(options, "samples", False),
        start_ahead=not getattr(options, "no_start_ahead", False),
    )


def chosen_engine(asked: str, devices: str | None, address: str | None) -> "EngineKind":
    """`auto` is local for one device and no cluster, Ray otherwise. Raises UserError for choices that exclude each other."""
    if asked == "local":
        if address:
            raise UserError("--engine local uses no cluster: leave --address out, or choose --engine ray.")
        return "local"
    if asked == "ray" or address or len(choose_devices(devices)) > 1:
        return "ray"
    from cluster.ray_cluster.engine import cluster_here

    return "local" if cluster_here() is None else "ray"


def local_devices(text: str | None, engine: "EngineKind") -> tuple[Device, ...]:
    """The devices of this machine; on a cluster `cuda` may be meant for others than this one has."""
    return choose_devices(text) if engine == "local" else tuple(detect_devices()[:1])


def device_kind(text: str | None) -> DeviceKind | None:
    """Which kind of device `--devices` asks for; None where it says nothing."""
    if text is None:
        return None
    return "cpu" if text == "cpu" else "mps" if text == "mps" else "cuda"


def gpu_indices(text: str | None) -> tuple[int, ...] | None:
    """The GPUs that `--devices 0,2` names; None where it names none."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    return tuple(int(word) for word in words) if words and all(word.isdigit() for word in words) else None


def check_researcher(name: str) -> None:
    """Raises UserError for a researcher that there isn't, before any work is done for it."""
    kind, _, rest = name.partition(":")
    if not (name in ("search", "claude") or (kind in ("command", "scripted") and rest)):
        raise UserError(f"No researcher is called {name!r}: search, claude, command:'COMMAND' or scripted:FILE.")


def run_to_end(options: "FarmOptions", display: "Display") -> "FarmSummary":
    """Runs the farm; the terminal is left as it was, however that ends."""
    from cluster.driver import run_farm

    try:
        return asyncio.run(run_farm(options, display))
    finally:
        display.close()


def before_start(options: "FarmOptions") -> list[str]:
    """What will run where, what it will cost, and what stands in the way. Raises UserError where it can't begin."""
    from cluster.loop_plans import contract_asked_for
    from research.data.prepare import find_prepared

    if options.engine == "ray":
        return before_start_on_cluster(options)
    known = _known(options.home)
    check_known_branches(options, known)
    contract = contract_asked_for(options, options.devices[0])
    profile = contract.profile
    records = [record for history in known if history.branch.profile == profile for record in history.records]
    costs = estimate(
        contract=contract,
        devices=options.devices,
        loops=options.loops or len(options.devices),
        researcher=options.researcher,
        model=options.model,
        samples=options.samples,
        records=records,
        home=options.home.folder,
    )
    lines = [
        f"tag {options.tag}, profile {profile}, on {device.key}: {platform_identity(device)}" for device in options.devices
    ]
    lines += [line for device in options.devices for line in _busy_lines(device)]
    lines += lines_before_runs(options.sandbox, layers_here())
    lines += costs.lines()
    try:
        find_prepared(contract, cache=options.cache, num_shards=options.num_shards)
    except UserError:
        lines.append(data_line(contract, options.num_shards))
    if options.experiments is None and options.hours is None and options.max_cost is None:
        lines.append("no limit is given: it goes on until Ctrl-C")
    return [*lines, f"home: {options.home.folder}"]


def check_known_branches(options: "FarmOptions", histories: list[BranchHistory]) -> None:
    """Raises UserError where a branch would go on under other terms: before anything else is said of the run."""
    from cluster.loop_plans import check_same_terms, contract_asked_for, local_loops

    known = {history.branch.name: history.branch for history in histories}
    for name, device in local_loops(options):
        if name in known:
            check_same_terms(known[name], device, contract_asked_for(options, device))


def before_start_on_cluster(options: "FarmOptions") -> list[str]:
    """Where a farm on Ray gets its devices, and where it keeps what it finds."""
    from cluster.ray_cluster.engine import cluster_here

    address = options.address or cluster_here()
    where = f"the Ray cluster at {address}" if address else "a Ray cluster of its own on this machine"
    loops = counted(options.loops, "loop") if options.loops else "a loop for each device"
    lines = [f"tag {options.tag}, {loops}, on {where}"]
    if address is None or options.sandbox == "off":  # of a cluster's nodes nothing is known yet
        lines += lines_before_runs(options.sandbox, layers_here())
    if options.experiments is None and options.hours is None and options.max_cost is None:
        lines.append("no limit is given: it goes on until it is stopped")
    return [*lines, f"home: {options.home.folder}"]


def summary_lines(summary: "FarmSummary") -> list[str]:
    """What a farm did."""

    lines = [f"ended: {summary.ended}, after {duration(summary.seconds)}"]
    lines.append(f"{counted(summary.experiments, 'experiment')}, {summary.keeps} kept, on {', '.join(summary.branches)}")
    if summary.best is not None and summary.baseline is not None:
        gained = summary.baseline - summary.best
        lines.append(f"val_bpb {summary.baseline:.6f} at the start, {summary.best:.6f} now: {gained:.6f} gained")
    return lines


def look_lines(home: Home) -> list[str]:
    """Where a farm's history lies, and the commands that show it, to be pasted as they are."""
    commands = {"report": "", "diff": "", "sql": " 'SELECT * FROM leaderboard'"}
    at_home = home_option(home)
    return [f"home: {home.folder}; look at it with", *(f"  farm {name}{at_home}{rest}" for name, rest in commands.items())]


def outcome(record: "ExperimentRecord") -> str:
    """An experiment's verdict in a line."""
    from cluster.display import title_and_reason

    if record.verdict is None:
        return f"no verdict: {record.experiment.title}"
    return f"{record.verdict.decision}: {title_and_reason(record)}"


def _known(home: Home) -> list[BranchHistory]:
    try:
        return read_history(home)
    except UserError:
        return []


def _busy_lines(device: Device) -> list[str]:
    processes = busy_processes(device)
    if not processes:
        return []
    named = ", ".join(f"{process.name} ({process.pid})" for process in processes[:3])
    others = counted(len(processes), "other process", "other processes")
    return [f"warning: {device.key} is used by {others}: {named}; scores will suffer"]
