"""`farm diff`, `farm apply`, `farm sample`, `farm transfer`: what to do with a result."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.read_home import history_meant, read_history, record_named
from cluster.event_loop import run_in_loop
from cluster.hardware import Device, choose_devices
from cluster.home import Home, find_cache, find_checkout, find_home, package_folder
from cluster.judge_process import judge_environment
from research.child_settings import ChildSettings
from research.contract import Contract
from research.errors import UserError
from results.experiment import Branch, ExperimentRecord, Head
from results.history import BranchHistory

if TYPE_CHECKING:
    from cluster.transfer import TransferPlan
    from results.store import Store

MODEL = "model.safetensors"


def diff(options: argparse.Namespace) -> int:
    """Prints how the head's train.py differs from its baseline's."""
    from agent.diff import unified_diff

    home = find_home(options.home)
    history, baseline, head = _winner(home, options.branch)
    before = recorded_train_py(home, baseline.experiment.commit)
    text = unified_diff(before, recorded_train_py(home, head.commit))
    print(text.rstrip("\n") if text else f"{history.branch.name}: nothing but the baseline is kept.")
    return 0


def apply(options: argparse.Namespace) -> int:
    """Writes the head's train.py into the checkout, without a commit."""
    from agent.repo.repository import TRAIN_FILE, uncommitted_train_py

    checkout = find_checkout()
    if checkout is None:
        raise UserError("There is no checkout here to write train.py into: run this inside one.")
    home = find_home(options.home)
    history, baseline, head = _winner(home, options.branch)
    text = recorded_train_py(home, head.commit)
    edited = uncommitted_train_py(checkout)
    if edited is not None and edited != text and not options.force:
        raise UserError(f"{TRAIN_FILE} has edits that no commit has: commit or copy them, or discard them with --force.")
    is_committed = edited is None and (checkout / TRAIN_FILE).read_text(encoding="utf-8") == text
    (checkout / TRAIN_FILE).write_text(text, encoding="utf-8")
    expected = history.group.gain.head if history.group.gain else head.expected
    score = f"{head.commit[:7]}, val_bpb {expected:.4f} expected on {history.branch.platform}"
    if is_committed:
        print(f"{TRAIN_FILE} is that of {head.experiment_id} already ({score}); nothing has changed.")
    else:
        print(f"{TRAIN_FILE} is now that of {head.experiment_id} ({score}). It is not committed.")
    if head.commit == baseline.experiment.commit:
        print(f"{history.branch.name}: nothing but the baseline is kept.")
    return 0


def sample(options: argparse.Namespace) -> int:
    """Prints text that a saved model generates."""
    home = find_home(options.home)
    histories = read_history(home)
    if options.id is None:
        history, record = _newest_with_model(home, histories)
        print(f"{record.experiment.id} {record.experiment.title}", file=sys.stderr)
    else:
        record = record_named(home, histories, options.id)
        history = next(h for h in histories if h.branch.name == record.experiment.branch)
    device = choose_devices(options.devices)[0]
    return print_sample(
        home, history, record, device, cache=find_cache(options.cache), prompt=options.prompt, tokens=options.tokens
    )


def transfer(options: argparse.Namespace) -> int:
    """Runs a branch's baseline and head under other terms, and prints whether the gain carries over.

    The exit status is 1 if a run has no score.
    """
    from cluster.machine_load import busy_lines
    from cluster.start_estimate import OVERHEAD_SECONDS
    from cluster.transfer import TRANSFER, TransferFailed, held, original_gain, plan_line, run_pairs
    from results.transfer import compare, transfer_event, transfer_lines

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    home = find_home(options.home)
    branch = history_meant(read_history(home), options.branch).branch
    home.check_free()
    with held(home, branch) as (store, state):
        plan = transfer_plan(options, home, store, branch)
        say(plan_line(plan, OVERHEAD_SECONDS[plan.device.kind]))
        for line in busy_lines((plan.device,)):
            say(line)
        if plan.data.score_fingerprint(recorded_contract(branch)) != branch.score_fingerprint:
            say("the judge's code or the data have changed since: the original gain compares by its size only")
        try:
            pairs = run_in_loop(run_pairs(plan, store, runs_folder=home.runs, say=say, state=state))
        except TransferFailed as failure:
            say(f"nothing can be compared: {failure}")
            return 1
        found = compare(pairs, original_gain(store, branch))
        event = transfer_event(found, pairs, terms=plan.terms())
        store.add_event(TRANSFER, event, id=f"{TRANSFER} {' '.join(event['runs'])}")
    print(json.dumps(event) if options.json else "\n".join(transfer_lines(found)))
    return 0


def transfer_plan(options: argparse.Namespace, home: Home, store: "Store", branch: Branch) -> "TransferPlan":
    """What `farm transfer` runs. Raises UserError for a branch without a gain, terms that can't be, and missing data."""
    from cluster.transfer import Side, TransferPlan, at_depth, baseline_and_head, seeds
    from research.data.prepare import find_prepared
    from research.data.sources import check_source

    baseline, head = baseline_and_head(store, branch)
    began = recorded_contract(branch)
    check_source(began.source, options.num_shards, reads_files=False)
    data = find_prepared(began, cache=find_cache(options.cache), num_shards=options.num_shards,
                         score_fingerprint=branch.score_fingerprint)  # fmt: skip
    device = choose_devices(options.devices)[0]
    before, after = baseline.experiment.commit, head.commit
    sides = (
        Side(name="baseline", commit=before, train_py=recorded_train_py(home, before)),
        Side(name="head", commit=after, train_py=recorded_train_py(home, after)),
    )
    first, second = (at_depth(side, options.depth, profile=branch.profile, device=device) for side in sides)
    return TransferPlan(
        branch=branch,
        baseline=first,
        head=second,
        depth=options.depth,
        contract=began if options.budget is None else replace(began, TIME_BUDGET=options.budget),
        data=data,
        device=device,
        seeds=seeds(options.seeds),
        splits=not options.no_split,
    )


def print_sample(
    home: Home, history: BranchHistory, record: ExperimentRecord, device: Device, *, cache: Path, prompt: str, tokens: int
) -> int:
    """Prints text that a record's model generates. Returns the exit status of the process that does it.

    It is a process of its own because train.py is a researcher's code. Raises UserError if no model was saved.
    """
    from research.data.prepare import find_prepared

    model = saved_model(home, record)
    if model is None:
        raise UserError(
            f"No model of {record.experiment.id} was saved: start the farm with --samples to save the models of keeps."
        )
    contract = recorded_contract(history.branch)
    data = find_prepared(contract, cache=cache, score_fingerprint=history.branch.score_fingerprint)  # the model's own tokenizer
    command = [
        *(sys.executable, "-W", "ignore", "-m", "research.sample"),  # flash-attn-4's compiler warns about its own code
        *("--model", str(model), "--train", str(model.with_name("train.py")), "--data", str(data.folder)),
        *("--prompt", prompt, "--tokens", str(tokens), "--device", device.torch_device),
    ]
    environment = judge_environment(device) | ChildSettings(contract=contract).environment()
    return subprocess.run(command, env=environment, cwd=package_folder(), check=False).returncode


def saved_model(home: Home, record: ExperimentRecord) -> Path | None:
    """The saved model of the record's first run that has one; None if there is none."""
    for run in record.runs:
        path = home.runs / run.run_id / MODEL
        if path.is_file():
            return path
    return None


def _newest_with_model(home: Home, histories: list[BranchHistory]) -> tuple[BranchHistory, ExperimentRecord]:
    for history in reversed(histories):
        record = best_with_model(home, history)
        if record is not None:
            return history, record
    raise UserError("No model is saved yet: start the farm with --samples to save the models of keeps.")


def best_with_model(home: Home, history: BranchHistory) -> ExperimentRecord | None:
    """The experiment that made the head, or else the branch's latest keep, whose model was saved; None if none was."""
    candidates = [*history.keeps, *([] if history.head is None else [history.head])]
    return next((record for record in reversed(candidates) if saved_model(home, record) is not None), None)


def _winner(home: Home, name: str | None) -> tuple[BranchHistory, ExperimentRecord, Head]:
    """The branch with this name, or the best of this tag, with its baseline and its head. Raises UserError."""
    history = history_meant(read_history(home), name)
    baseline, head = history.baseline, history.group.head
    if baseline is None or head is None:
        raise UserError(f"{history.branch.name} has no score yet: name another branch or tag, or let the farm run on.")
    return history, baseline, head


def recorded_contract(branch: Branch) -> Contract:
    """The contract that a branch began with. Raises UserError if this version of the farm has other constants."""
    try:
        return Contract.from_json(branch.contract_json)
    except TypeError:
        other = "a version of the farm whose research/contract.py has other constants"
        raise UserError(f"{branch.name} began with {other}: use that version for it.") from None


def recorded_train_py(home: Home, commit: str) -> str:
    """The text of train.py at a commit of the farm's repository, which is only read. Raises UserError."""
    from agent.repo import repository

    checkout = repository.checkout_around(Path.cwd())
    of_home = [*home.repositories(), home.folder / "repository"]
    folders = list(dict.fromkeys([*([] if checkout is None else [checkout]), *of_home]))
    text = repository.recorded_train_py(folders, commit)
    if text is None:
        looked = ", ".join(str(folder) for folder in folders)
        raise UserError(f"There is no commit {commit[:7]} in {looked}: run this in the checkout that the farm ran in.")
    return text
