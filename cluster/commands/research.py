"""`farm run`, `farm try`, `farm abandon`, `farm stop`."""

import argparse
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.repo.branch_names import short_name
from cluster.commands.read_home import history_to_run_on, read_history
from cluster.event_loop import interrupts_held, run_in_loop
from cluster.hardware import choose_devices, limited, platform_identity
from cluster.home import Home, find_home, home_option
from cluster.machine_load import busy_lines
from cluster.resuming import interrupted, open_records, other_sides, resume_lines
from cluster.start_estimate import data_line, estimate
from research.command_hints import to_type
from research.errors import FarmEnded, UserError
from research.formatting import counted, duration
from results.history import BranchHistory
from results.researcher_costs import spent_text, total

if TYPE_CHECKING:
    from cluster.display import Display
    from cluster.end_summary import FarmSummary
    from cluster.farm_options import FarmOptions
    from results.experiment import ExperimentRecord


def run(options: argparse.Namespace) -> int:
    """Prints what the farm will cost, then runs it until its limits or Ctrl-C."""
    from cluster.commands.options import run_options
    from cluster.dashboard.serving import beside
    from cluster.display import make_display
    from cluster.end_summary import summary_lines
    from cluster.output import LastingOutput
    from cluster.trackers import sender
    from cluster.trackers.clients import check_installed

    for name in options.track or ():
        check_installed(name)
    farm_options = run_options(options)
    output = LastingOutput(farm_options.home)
    for line in before_start(farm_options):
        output.line(line)
    display = make_display(output.line)
    with contextlib.ExitStack() as others:
        if options.dashboard:
            others.enter_context(beside(farm_options.home, display.say))
        if options.track:
            others.enter_context(sender.tracker_processes(farm_options.home, options.track, display.say))
        summary = run_to_end(farm_options, display)
    resume = resume_lines(farm_options.home, _known(farm_options.home), summary.branches)
    for line in (*summary_lines(summary), *resume, *look_lines(farm_options.home)):
        output.line(line)
    return 0


def try_(options: argparse.Namespace) -> int:
    """Runs one experiment with the working train.py. The exit status is 1 if it has no score."""
    from cluster.branch_start import check_terms
    from cluster.by_hand import check_parses, on_the_checkouts_branch, try_once, where_the_edit_is
    from cluster.commands.options import try_options
    from cluster.display import make_display, reason_alone
    from cluster.doctor import layers_here, lines_before_runs
    from cluster.output import LastingOutput

    farm_options = try_options(options)
    if options.tag is None:
        farm_options = on_the_checkouts_branch(farm_options)
    farm_options.home.check_free()
    known = history_to_run_on(farm_options.home)
    if options.again and options.tag is not None:
        check_has_begun(farm_options, known)
    check_parses(farm_options)
    check_terms(farm_options, {history.branch.name: history.branch for history in known}, command="try")
    output = LastingOutput(farm_options.home)
    for line in lines_before_runs(farm_options.sandbox, layers_here()):
        output.line(line)
    display = make_display(output.line)
    try:
        record = run_in_loop(try_once(farm_options, options.message, display, again=options.again))
    finally:
        display.close()
    if record.verdict is not None and record.verdict.effect is not None:  # of which the line of the verdict has a part
        output.line(f"  {reason_alone(record.verdict.reason, record)}")
    seconds = sum(result.total_seconds or 0.0 for result in record.runs)
    show = to_type(f"farm show{home_option(farm_options.home)} {record.experiment.id}")
    output.line(f"  {record.experiment.id}, {duration(seconds)}; details: {show}")
    edit = where_the_edit_is(record, farm_options)
    if edit:
        output.line(f"  {edit}")
    return 0 if record.verdict is not None and record.verdict.decision in ("keep", "discard") else 1


def check_has_begun(options: "FarmOptions", known: list[BranchHistory]) -> None:
    """Raises UserError if no branch of the tag is on record, so that nothing can be run again there."""
    if not any(options.tag in (history.branch.tag, short_name(history.branch.name)) for history in known):
        raise UserError(f"Tag {options.tag} has no experiment yet, so there is none to run --again: leave --again out.")


def abandon(options: argparse.Namespace) -> int:
    """Records that an interrupted experiment is not to be finished; of a confirmation both sides."""
    from agent.repo.branch_names import experiment_ref
    from agent.repo.repository import TRAIN_FILE
    from results.store import Store
    from results.verdict import abandoned_by_a_person

    home = find_home(options.home)
    histories = read_history(home)
    unfinished = [record for history in histories for record in open_records(history)]
    if (holder := home.holder()) is not None:
        raise UserError(under_way(home, holder, unfinished))
    asked = interrupted(histories) if options.id is None else unfinished
    record = interrupted_named(asked, options.id, abandon=to_type(f"farm abandon{home_option(home)}"))
    experiment, pair = record.experiment, [record, *other_sides(record, unfinished)]
    with home.lock(), Store.open(home.folder, wait_s=5.0) as store:
        for side in pair:
            store.add_verdict(side.experiment.id, abandoned_by_a_person())
    where = f"; its {TRAIN_FILE} stays at {experiment_ref(experiment.id)}" if record.is_idea else ""
    both = "".join(f", and with it {side.experiment.id} ({side.experiment.title})" for side in pair[1:])
    print(f"{experiment.id} ({experiment.title}) is abandoned{both}{where}.")
    return 0


def under_way(home: Home, holder: str, unfinished: "list[ExperimentRecord]") -> str:
    """Why nothing can be abandoned while a farm runs, which finishes what has no verdict."""
    there = ", ".join(record.experiment.id for record in unfinished)
    what = f"it runs or will finish what has no verdict yet ({there})" if there else "nothing was interrupted"
    stop = to_type(f"farm stop{home_option(home)}")
    return f"A farm is already running on {home.folder} ({holder}), and {what}: to abandon one, stop the farm first (`{stop}`)."


def interrupted_named(unfinished: "list[ExperimentRecord]", name: str | None, *, abandon: str) -> "ExperimentRecord":
    """The interrupted experiment with this id; without one, the only one that there is. Raises UserError, which says how to
    name one in the command `abandon`.
    """
    if not unfinished:
        raise UserError("No experiment was interrupted: there is nothing to abandon.")
    found = [record for record in unfinished if name in (None, record.experiment.id)]
    if len(found) != 1:
        there = ", ".join(record.experiment.id for record in unfinished)
        problem = "Several experiments were interrupted" if name is None else f"{name} is not an interrupted experiment"
        raise UserError(f"{problem}: {abandon} takes one of {there}.")
    return found[0]


def stop(options: argparse.Namespace) -> int:
    """Asks the running farm to end, or loops of it alone."""
    from cluster.local_api import connect_soon, silent_farm
    from cluster.stop_request import interrupt_holder

    home = find_home(options.home)
    if options.branch is not None:
        from cluster.commands.steer import stop_loops

        return stop_loops(home, options.branch)
    client = connect_soon(home)
    if client is None:
        pid = interrupt_holder(home)
        if pid is None:
            raise UserError(silent_farm(home) or f"No farm is running on {home.folder}.")
        print(f"What holds {home.folder} (process {pid}) doesn't answer: it was interrupted, as by Ctrl-C.")
        return 0
    try:
        branches = client.status()["loops"]
        client.stop()
    except FarmEnded:
        print(f"The farm (process {client.pid}) has just ended.")
        return 0
    print(f"The farm (process {client.pid}) is stopping.")
    for line in resume_lines(home, _known(home), branches):
        print(line)
    return 0


def run_to_end(options: "FarmOptions", display: "Display") -> "FarmSummary":
    """Runs the farm, and restores the terminal however the farm ends."""
    try:
        with interrupts_held():
            from cluster.driver import run_farm
        summary = run_in_loop(run_farm(options, display))
    finally:
        display.close()
    return replace(summary, seconds=display.seconds())  # what the live view showed last


def before_start(options: "FarmOptions") -> list[str]:
    """The lines before a start: what will run where, what it will cost, and warnings.

    Raises UserError for whatever can be known now to prevent the start, so that nothing is printed before it.
    """
    from cluster.branch_start import check_branches
    from cluster.doctor import layers_here, lines_before_runs
    from cluster.loop_plans import check_loops, contract_asked_for, data_if_prepared

    options.home.check_free()
    unable = researchers_unable(options)  # raises for what isn't as the user wants it
    known = history_to_run_on(options.home)
    if options.engine == "ray":
        return [*unable, *before_start_on_cluster(options, known)]
    branches = {history.branch.name: history.branch for history in known}
    check_loops(options, len(options.devices), branches.values())
    check_branches(options, branches)
    contract = contract_asked_for(options, options.devices[0])
    is_prepared = data_if_prepared(contract, options) is not None
    options.home.create()
    profile = contract.profile
    costs = estimate(
        contract=contract,
        devices=options.devices,
        loops=options.loops or len(options.devices),
        researcher=options.researcher,
        model=options.model,
        max_cost=options.max_cost,
        prices=options.prices,
        samples=options.samples,
        histories=known,
        home=options.home.folder,
    )
    lines = [
        f"tag {options.tag}, profile {profile}, on {device.key}: {platform_identity(device)}" for device in options.devices
    ]
    lines += busy_lines(options.devices)
    lines += lines_before_runs(options.sandbox, layers_here())
    lines += costs.lines()
    lines += unable
    lines += _researcher_lines(options, known)
    lines += _start_lines(options, known)
    if not is_prepared:
        lines.append(data_line(contract, options.num_shards))
    if options.experiments is None and options.hours is None and not ends_by_cost(options):
        lines.append("no limit: the farm runs until Ctrl-C")
    return [*lines, f"home: {options.home.folder}"]


def researchers_unable(options: "FarmOptions") -> list[str]:
    """A line for each researcher that can't work here and that search stands in for, such as one without its key.

    Raises UserError for whatever else prevents a researcher, NotConfigured where nothing stands in.
    """
    from agent.researchers.budget import budgets_of
    from agent.researchers.containment import AgentBounds
    from agent.researchers.fallback import AskedResearcher
    from agent.researchers.mix import ADAPTIVE, shares_of

    lines = []
    for member in shares_of(options.researcher):
        _, problem = AskedResearcher(
            name=member, model=options.model, effort=options.effort, bounds=AgentBounds(sandbox=options.sandbox),
            budgets=budgets_of(options.max_cost, options.max_loop_cost), prices=options.prices,
            falls_back=options.fallback == "search",
        ).made()  # fmt: skip
        is_left_out = options.mix == ADAPTIVE and member != options.researcher
        what = f"{member} is left out of the mix" if is_left_out else f"search stands in for {member}"
        lines += [f"warning: {what}: {problem}"] if problem else []
    return lines


def before_start_on_cluster(options: "FarmOptions", known: list[BranchHistory]) -> list[str]:
    """The lines before a start on Ray: whose devices it uses, and where its home is.

    Raises UserError for what this machine's devices can't do if they are those of the cluster.
    """
    from cluster.branch_start import check_terms_on_own_cluster
    from cluster.doctor import layers_here, lines_before_runs
    from cluster.loop_plans import check_loops
    from cluster.ray_cluster.engine import cluster_here

    address = options.address or cluster_here()
    if address is None:
        devices = [limited(device, options.gpu_memory_bytes) for device in choose_devices(options.requested)]
        branches = [history.branch for history in known]
        check_loops(options, len(devices), branches)
        check_terms_on_own_cluster(options, branches, devices)
    where = f"the Ray cluster at {address}" if address else "its own Ray cluster on this machine"
    loops = counted(options.loops, "loop") if options.loops else "one loop per device"
    lines = [f"tag {options.tag}, {loops}, on {where}"]
    if address is None or options.sandbox == "off":  # nothing is known yet about a cluster's nodes
        lines += lines_before_runs(options.sandbox, layers_here())
    lines += _researcher_lines(options, known)
    lines += _start_lines(options, known)
    if options.experiments is None and options.hours is None and not ends_by_cost(options):
        lines.append(f"no limit: the farm runs until it is stopped ({to_type(f'farm stop{home_option(options.home)}')})")
    return [*lines, f"home: {options.home.folder}"]


def look_lines(home: Home) -> list[str]:
    """Where the home is, and commands that show its history, ready to be pasted."""
    commands = {"report": "", "diff": "", "sql": " 'SELECT rank, title, val_bpb, effect, helps FROM leaderboard'"}
    lines = [to_type(f"farm {name}{home_option(home)}{rest}") for name, rest in commands.items()]
    return [f"home: {home.folder}; look at it with:", *(f"  {line}" for line in lines)]


def _researcher_lines(options: "FarmOptions", known: list[BranchHistory]) -> list[str]:
    """What is known against the researcher, and what the tag has cost of its --max-cost."""
    from agent.researchers.make import researcher_warnings

    lines = [options.why_researcher] if options.why_researcher else []
    lines += researcher_warnings(options.researcher, options.sandbox)
    spent = total(usage for history in known if history.branch.tag == options.tag for usage in history.costs).cost_usd
    if options.max_cost is not None and spent:
        lines.append(spent_text(spent, options.max_cost, options.tag))
    return lines


def ends_by_cost(options: "FarmOptions") -> bool:
    """Whether the farm ends once its researchers have cost what they may, as opposed to going on with search."""
    return options.max_cost is not None and options.fallback == "none"


def _start_lines(options: "FarmOptions", known: list[BranchHistory]) -> list[str]:
    """What a new tag starts from, where that isn't plain from git."""
    from cluster.branch_start import source_tree_lines

    is_new = all(history.branch.tag != options.tag for history in known)
    return source_tree_lines(options) if is_new else []


def _known(home: Home) -> list[BranchHistory]:
    try:
        return read_history(home)
    except UserError:
        return []
