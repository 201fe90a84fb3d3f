"""`farm confirm`, `farm drop`, `farm combine`, `farm baseline`: a person's own judgement."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.commands.read_home import branch_asked, history_meant, read_history, record_named
from cluster.event_loop import run_in_loop
from cluster.home import Home, find_cache, find_home, home_option
from cluster.local_api import ask_farm
from cluster.person_requests import Answer, Ask, record
from cluster.resuming import is_tried_by_hand, resuming_with
from research.errors import UserError
from research.formatting import one_line
from results.history import names_a_branch
from results.journal_damage import check_whole

if TYPE_CHECKING:
    from cluster.confirm import Subject
    from cluster.farm_options import FarmOptions
    from research.contract import Contract
    from research.result import RunResult
    from results.experiment import Branch


def confirm(options: argparse.Namespace) -> int:
    """Runs the head, or an experiment, and the baseline under fresh seeds. The exit status is 1 without an interval."""
    from cluster.commands.use import recorded_contract, recorded_train_py
    from cluster.confirm import confirm as confirm_subject
    from cluster.confirm import subject_of
    from cluster.display import make_display
    from cluster.machine_load import busy_lines
    from cluster.output import LastingOutput
    from cluster.verify import run_to_repeat
    from research.data.sources import check_source
    from results.store import Store

    home = find_home(options.home)
    branch, experiment = branch_or_experiment(home, options.name)
    contract = recorded_contract(branch)
    check_source(contract.source, options.num_shards, reads_files=False)
    with home.lock(), Store.open(home.folder, wait_s=5.0) as store:
        check_whole(home.journal, store.journal.damaged, home_option=home_option(home))
        subject = subject_of(store, branch, experiment)
        before = [run_to_repeat(store.record(found.id)) for found in (subject.tried, subject.baseline)]
    tried, baseline = (recorded_train_py(home, found.commit) for found in (subject.tried, subject.baseline))
    farm_options = confirm_options(options, home, subject, contract, before[1])
    check_same_scoring_as(before, (tried, baseline), farm_options, subject, contract)
    output = LastingOutput(home)
    output.line(f"tag {branch.tag}: {subject.tried.id} ({one_line(subject.tried.title, 60)}) against {subject.baseline.id}")
    for line in busy_lines(farm_options.devices):
        output.line(line)
    display = make_display(output.line)
    confirming = confirm_subject(
        farm_options, subject, (tried, baseline), contract=contract, seeds=options.seeds, display=display
    )
    try:
        lines, has_interval = run_in_loop(confirming)
    except KeyboardInterrupt:
        output.line("interrupted: the same command goes on with what is left")
        raise
    finally:
        display.close()
    for line in lines:
        output.line(line)
    return 0 if has_interval else 1


def confirm_options(
    options: argparse.Namespace, home: Home, subject: "Subject", contract: "Contract", before: "RunResult"
) -> "FarmOptions":
    """The options of a farm on this machine's devices of the branch's platform, on its terms. Raises UserError."""
    from agent.repo.repository import checkout_around
    from cluster.farm_options import FarmOptions
    from cluster.hardware import choose_devices
    from cluster.verify import devices_like

    devices = devices_like(subject.branch, choose_devices(options.devices), gpu_memory_bytes=before.gpu_memory_bytes)
    repositories = [*home.repositories(), checkout_around(Path.cwd()) or home.folder / "repository"]
    return FarmOptions(
        repo=repositories[0],
        home=home,
        cache=find_cache(options.cache),
        tag=subject.branch.tag,
        researcher="search",
        profile=contract.profile,
        budget=contract.TIME_BUDGET,
        source=contract.source,
        num_shards=options.num_shards,
        devices=devices,
        gpu_memory_bytes=before.gpu_memory_bytes,
    )


def check_same_scoring_as(
    before: "list[RunResult]", texts: tuple[str, str], options: "FarmOptions", subject: "Subject", contract: "Contract"
) -> None:
    """Raises UserError if the data isn't prepared, or runs of these train.py would not be scored as they were."""
    from cluster.verify import check_same_as_recorded
    from research.data.prepare import find_prepared

    data = find_prepared(contract, cache=options.cache, num_shards=options.num_shards,
                         score_fingerprint=subject.branch.score_fingerprint)  # fmt: skip
    for run, text in zip(before, texts, strict=True):
        check_same_as_recorded(run, text, data, contract)


def drop(options: argparse.Namespace) -> int:
    """Takes an idea out of the head for good; with --undo takes that back."""
    home = find_home(options.home)
    histories = read_history(home)
    experiment = record_named(home, histories, options.id).experiment
    branch = next(history.branch for history in histories if history.branch.name == experiment.branch)
    what: Literal["drop", "undo drop"] = "undo drop" if options.undo else "drop"
    return ask(home, branch, Ask(what=what, group=branch.head_branch, idea=experiment.id))


def combine(options: argparse.Namespace) -> int:
    """Asks for a wave of near-misses."""
    home = find_home(options.home)
    branch = branch_asked(home, read_history(home), options.tag).branch
    return ask(home, branch, Ask(what="combine", group=branch.head_branch))


def baseline(options: argparse.Namespace) -> int:
    """Asks for the baseline again."""
    if not options.again:
        raise UserError("farm run measures the baseline the first time; another run of it, as a control, needs --again.")
    home = find_home(options.home)
    branch = branch_asked(home, read_history(home), options.tag).branch
    return ask(home, branch, Ask(what="baseline", group=branch.head_branch))


def ask(home: Home, branch: "Branch", asked: Ask) -> int:
    """Records what is asked, through the farm that holds the home if one does, and prints what follows. Raises UserError."""
    from results.store import Store

    client = ask_farm(home)
    if client is not None:
        answer = client.ask(asked)
    else:
        with home.lock(), Store.open(home.folder, wait_s=5.0) as store:
            check_whole(home.journal, store.journal.damaged, home_option=home_option(home))
            answer = record(store, asked)
    for line in (*answer.files, f"{answer.recorded}.", *([] if answer.is_done else [_when(home, branch, answer)])):
        print(line)
    return 0


def _when(home: Home, branch: "Branch", answer: Answer) -> str:
    """When what was asked begins."""
    if answer.is_taken_up:
        return "The running farm takes that up at its next step"
    if not is_tried_by_hand(home, branch):
        return f"That begins{resuming_with(home, branch)}"
    from cluster.before_try import what_is_in_the_way

    records = next((history.records for history in read_history(home) if history.branch.name == branch.name), ())
    first = what_is_in_the_way(home, branch, records)
    return f"That begins{f', {first.rstrip()}' if first else ''}{resuming_with(home, branch)}"


def branch_or_experiment(home: Home, name: str | None) -> "tuple[Branch, str | None]":
    """The branch that a name stands for, or the experiment's with its id. Raises UserError."""
    histories = read_history(home)
    if name is None or names_a_branch(histories, name):
        return history_meant(histories, name).branch, None
    experiment = record_named(home, histories, name, or_branch=True).experiment
    return next(history.branch for history in histories if history.branch.name == experiment.branch), experiment.id
