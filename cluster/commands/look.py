"""`farm status`, `dashboard`, `report`, `show`, `sql`, `audit`, `verify`, `autopsy` and `import`: the history, while the farm
runs and afterwards.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.read_home import checked_out_here, read_history, record_named
from cluster.home import Home, find_cache, find_checkout, find_home, home_option
from cluster.local_api import ask_farm, connect, silent_farm
from cluster.resuming import interrupted, interrupted_lines, open_records, other_sides
from cluster.status_text import running_lines, standing, standing_lines
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import one_line, printable
from results.group_history import GroupHistory
from results.history import branches_named, by_head

if TYPE_CHECKING:
    from results.experiment import ExperimentRecord
    from results.foreign_tsv import ForeignFile
    from results.history import BranchHistory
    from results.tables import Audience

AUDIT_LEGEND = (
    "  a change below 0 is a gain; gap = change on validation - change on audit",
    "  a gap below 0 is bad: validation gained more than rows that no researcher sees; above 0 it is harmless",
    "  an alarm is raised when the gap is more than {errors:g} standard errors below 0",
)
"""How to read the signs of an audit."""

LONGEST_NAME = 80
"""Characters of the name of an imported file."""

NOT_COMPARABLE = 3
"""The exit status of `farm verify` if the repetition was lost, or the machine was slower or faster than the recorded run's."""


def status(options: argparse.Namespace) -> int:
    """Prints what is running now, and a line for each branch."""
    home = find_home(options.home)
    client = connect(home)
    running = client.status() if client else None
    try:
        histories = read_history(home)
    except UserError:
        if running is None:
            raise
        histories = []
    every = histories
    if options.tag is not None:
        histories = branches_named(histories, options.tag)
    if options.json:
        branches = {one.branch.name: standing(one) for sharing in by_head(histories) for one in sharing}
        cut_off = [] if running is not None or silent_farm(home) else interrupted(histories)
        records = [record for history in histories for record in open_records(history)]
        cut_off = [side for one in cut_off for side in (one, *other_sides(one, records))]
        told = [{"id": one.experiment.id, "branch": one.experiment.branch, "title": one.experiment.title} for one in cut_off]
        print(json.dumps({"running": running, "branches": branches, "interrupted": told}))
        return 0
    unfinished = []
    if client is None or running is None:
        silent = silent_farm(home)
        print(silent or f"No farm is running on {home.folder}.")
        unfinished = [] if silent else interrupted_lines(home, histories)
    else:
        print(f"A farm is running on {home.folder} (process {client.pid}), tag {running['tag']}.")
        for line in running_lines(running):
            print(f"  {line}")
    resume = to_type(f"farm resume{home_option(home)}")
    of_tables = [*_rows_of_others(every), *_rows_by_hand(home, every)]
    for line in [*standing_lines(histories, resume=resume), *unfinished, *of_tables]:
        print(line)
    return 0


def _rows_of_others(histories: "list[BranchHistory]") -> list[str]:
    """A line on other branches' rows in the results.tsv of the checkout around the current folder; else none."""
    from cluster.results_files import RESULTS_TSV, foreign_rows

    here = checked_out_here()
    checkout = find_checkout()
    if here is None or checkout is None or not (checkout / RESULTS_TSV).is_file():
        return []
    return foreign_rows(checkout, here, histories)


def _rows_by_hand(home: Home, histories: "list[BranchHistory]") -> list[str]:
    """A line on each results.tsv with rows of people's own; none if there are none."""
    from cluster.results_files import by_hand_lines

    return by_hand_lines(home, histories, find_checkout())


def report(options: argparse.Namespace) -> int:
    """Prints the morning report, or writes it as files."""
    from results.report import morning_report

    home = find_home(options.home)
    histories = read_history(home)
    chosen = branches_named(histories, options.tag)
    if options.html is not None or options.card is not None:
        from cluster.morning_report.files import write_files

        for line in write_files(home, chosen, html=options.html, card=options.card):
            print(line)
        return 0
    ask, confirm = (to_type(f"farm {command}{home_option(home)}") for command in ("sql", "confirm"))
    print(morning_report(chosen, home=home.folder, ask=ask, confirm=confirm), end="")
    for line in _rows_by_hand(home, histories):
        print(line)
    return 0


def dashboard(options: argparse.Namespace) -> int:
    """Serves the pages of a home until Ctrl-C."""
    from cluster.dashboard.serving import serve

    home = find_home(options.home)
    serve(home, port=options.port, allows_changes=options.control, say=lambda link: print(
        f"The dashboard of {home.folder}, until Ctrl-C: {link}", flush=True))  # fmt: skip
    return 0


def show(options: argparse.Namespace) -> int:
    """Prints everything about one experiment."""
    from results.show import show_text

    home = find_home(options.home)
    histories = read_history(home)
    record = record_named(home, histories, options.id)
    group = next(history.group for history in histories if history.branch.name == record.experiment.branch)
    print(show_text(record, group), end="")
    return 0


def sql(options: argparse.Namespace) -> int:
    """Prints or writes the answer to one SELECT; without one, asks for queries if somebody types."""
    from cluster.sql_output import Output, chosen_output, deliver

    home = find_home(options.home)
    output = chosen_output(options.format, options.output, json=options.json)
    audience: Audience = "person" if options.audit else "agent"
    if options.query is None and sys.stdin.isatty() and output == Output():
        from cluster.sql_prompt import ask_for_queries

        return ask_for_queries(home, audience=audience)
    query = typed_query() if options.query in (None, "-") else options.query
    if query.lstrip().startswith("."):
        from cluster.sql_prompt import obey_lines

        obey_lines(home, query, output, audience=audience)
        return 0
    deliver(home, query, output, audience=audience)
    return 0


def typed_query() -> str:
    """The query on standard input. Raises UserError if that is no text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"The query on standard input is not {error.encoding} text (byte {error.start + 1}).") from None


def audit(options: argparse.Namespace) -> int:
    """Prints validation and audit scores side by side for each head. The exit status is 1 if there is an alarm."""
    home = find_home(options.home)
    chosen = branches_named(read_history(home), options.branch)
    texts = [audit_lines(home, group) for group in dict.fromkeys(history.group for history in chosen)]
    print("\n\n".join("\n".join(lines) for lines in texts))
    return 1 if any(line.startswith("  ALARM") for lines in texts for line in lines) else 0


def audit_lines(home: Home, group: GroupHistory) -> list[str]:
    """A group of branches as text: baseline and head on validation and audit, the gap, and the alarm if there is one."""
    from results.overfitting import ALARM_STANDARD_ERRORS, measure_overfitting

    name, baseline, head = group.name, group.baseline, group.head_record
    if baseline is None or head is None:
        return [f"{name}: no score yet"]
    found = measure_overfitting(baseline, head, home.runs)
    if found is None:
        return [f"{name}: its runs have no audit scores"]
    lines = [
        f"{name}: {baseline.experiment.id} -> {head.experiment.id}",
        f"  {'':<10}{'val_bpb':>10}{'audit_bpb':>11}",
        f"  {'baseline':<10}{found.val.baseline:>10.6f}{found.audit.baseline:>11.6f}",
        f"  {'head':<10}{found.val.head:>10.6f}{found.audit.head:>11.6f}",
        f"  {'change':<10}{found.val.change:>+10.6f}{found.audit.change:>+11.6f}",
    ]
    if group.is_at_baseline:
        return [*lines, "  gap       none: nothing but the baseline is kept"]
    legend = [line.format(errors=ALARM_STANDARD_ERRORS) for line in AUDIT_LEGEND]
    if found.standard_error is None:
        lines.append(f"  {'gap':<10}{found.gap:>+10.6f}; standard error unknown, since some runs have no scores per row")
        return [*lines, *legend]
    rows = f"on {found.val.rows} and {found.audit.rows} rows"
    lines.append(f"  {'gap':<10}{found.gap:>+10.6f} +- {found.standard_error:.6f}, {rows}")
    if found.audit.rows is not None and found.audit.rows < (found.audit.most_rows or 0):
        lines.append("  few audit rows: a run whose score would not be kept is scored on a tenth of them")
    return [*lines, *legend, *([f"  ALARM: {found.alarm}"] if found.alarm else [])]


def verify(options: argparse.Namespace) -> int:
    """Repeats the experiment's first scored run and compares.

    The exit status is 1 if the score is not reproduced, and NOT_COMPARABLE if the repetition can't tell.
    """
    from cluster.commands.use import recorded_contract, recorded_train_py
    from cluster.hardware import choose_devices
    from cluster.machine_load import busy_lines
    from cluster.verify import (
        Verification,
        check_same_as_recorded,
        device_like,
        repeat,
        run_to_repeat,
        sigma_of,
        verification_lines,
    )
    from research.data.prepare import find_prepared
    from research.data.sources import check_source

    home = find_home(options.home)
    histories = read_history(home)
    record = record_named(home, histories, options.id)
    branch = next(history.branch for history in histories if history.branch.name == record.experiment.branch)
    contract = recorded_contract(branch)
    check_source(contract.source, options.num_shards, reads_files=False)
    old = run_to_repeat(record)
    train_py = recorded_train_py(home, record.experiment.commit)
    device = device_like(branch, choose_devices(options.devices), gpu_memory_bytes=old.gpu_memory_bytes)
    data = find_prepared(contract, cache=find_cache(options.cache), num_shards=options.num_shards,
                         score_fingerprint=branch.score_fingerprint)  # fmt: skip
    check_same_as_recorded(old, train_py, data, contract)
    if connect(home) is not None:
        stop = to_type(f"farm stop{home_option(home)}")
        raise UserError(f"A farm is running on {home.folder} and would slow this run down: stop it first ({stop}).")
    for line in busy_lines((device,)):
        print(line)
    print(f"{record.experiment.id} {record.experiment.title}: repeating {old.run_id}, seed {old.seed}, on {device.key}",
          flush=True)  # fmt: skip
    new = repeat(old, train_py, device=device, data=data, contract=contract, on_progress=_Phases())
    found = Verification(old=old, new=new, sigma=sigma_of(record, branch))
    print("\n".join(verification_lines(found)))
    return 0 if found.reproduced else 1 if found.comparable else NOT_COMPARABLE


def autopsy(options: argparse.Namespace) -> int:
    """Prints what a results.tsv really found."""
    from results.autopsy import autopsy_lines, examine
    from results.foreign_tsv import read_foreign
    from results.own_table import own_rows, with_own_kinds

    home, file = find_home(), read_foreign(Path(options.file))
    records = _records_of(home)
    own = own_rows(file, records)
    found = examine(with_own_kinds(file, own), options.sigma)
    print(
        json.dumps(found.to_json())
        if options.json
        else "\n".join([*autopsy_lines(found), *_of_this_farm(home, file, own, records)])
    )
    return 0


def _records_of(home: Home) -> "list[ExperimentRecord]":
    """All experiments of a home; none where it has no history."""
    try:
        return [record for history in read_history(home) for record in history.records]
    except UserError:
        return []


def _of_this_farm(
    home: Home, file: "ForeignFile", own: "dict[int, ExperimentRecord]", records: "list[ExperimentRecord]"
) -> list[str]:
    """A line that names the report if a file's rows are experiments of this farm, of which the farm knows more; else none."""
    if not own:
        return []
    commits = {record.experiment.commit[:7] for record in records}
    by_hand = sum(record.experiment.kind == "manual" for record in own.values())
    beside = sum(row.line not in own and row.commit in commits for row in file.rows)
    apart = f" ({by_hand} of them tried by hand)" if by_hand else ""
    more = f"; {beside} more {'has' if beside == 1 else 'have'} the commit of one, and another score" if beside else ""
    told = "estimates them by their seeds and shares of the machine, too"
    return [f"{len(own)} of these rows {'is' if len(own) == 1 else 'are'} this farm's own{apart}: "
            f"`{to_type(f'farm report{home_option(home)}')}` {told}{more}"]  # fmt: skip


def import_(options: argparse.Namespace) -> int:
    """Records the rows of an outside results.tsv, for researchers to read."""
    from results.autopsy import autopsy_lines
    from results.foreign_import import event_of, examined, record_import
    from results.foreign_tsv import read_foreign
    from results.own_table import own_rows, with_own_kinds
    from results.store import Store

    home, path = find_home(options.home), Path(options.file)
    file = read_foreign(path)
    if not file.rows:
        tells = to_type(f"farm autopsy {shlex.quote(options.file)}")
        raise UserError(f"{printable(path)} holds no row with a score and a status: nothing is imported (`{tells}` says why).")
    name = one_line(options.name or printable(path.name), LONGEST_NAME)
    own = own_rows(file, _records_of(home))
    found = examined(with_own_kinds(file, own), options.sigma)
    event, replace = event_of(found, name), options.name is not None
    client = ask_farm(home)
    if client is not None:
        done = client.record_import(event, replace=replace)
    else:
        with home.lock(), Store.open(home.folder, wait_s=5.0) as store:
            done = record_import(store, event, replace=replace)
    if not done.is_new:
        print(f"The same file is there already, as {done.name}: nothing is changed.")
        return 0
    print("\n".join(autopsy_lines(found)))
    query = to_type(f"farm sql{home_option(home)} 'SELECT * FROM foreign_results'")
    print(f"imported as {done.name}{', instead of the file that had this name' if done.replaces else ''}; to see it: {query}")
    return 0


class _Phases:
    """Prints each phase of the run on standard error as it begins."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: dict[str, Any]) -> None:
        phase = str(progress.get("phase", self._last))
        if phase != self._last:
            self._last = phase
            print(f"  {phase}", file=sys.stderr, flush=True)
