"""What a farm has left when it ended: its essence, which kills must not change, and what must never be there."""

import json
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from agent.repo.git_command import run_git
from agent.repo.repository import train_py_at
from results.journal import DamagedLine, read_journal
from results.store import Store
from results.table_rows import TABLES
from tests.killed_farm import GAINS, MARK

PATIENCE_SECONDS = 6.0


def essence(folder: Path) -> dict[str, Any]:
    """The experiments with their texts, scores and decisions, and the heads: what follows from ideas and seeds alone."""
    repo = folder / "repo"
    with Store.open(folder / "home", wait_s=5.0) as store:
        found: dict[str, Any] = {}
        for branch in sorted(store.branches(), key=lambda one: one.name):
            for record in store.records(branch.name):
                experiment, verdict = record.experiment, record.verdict
                found[experiment.id] = [
                    experiment.kind,
                    experiment.title,
                    train_py_at(repo, experiment.commit),
                    [[run.status, run.seed, run.val_bpb] for run in record.runs if run.status != "lost"],
                    verdict.decision if verdict else None,
                ]
            head = store.head(branch.name)
            found[f"head of {branch.name}"] = None if head is None else [train_py_at(repo, head.commit), list(head.patches)]
    return found


def faults(folder: Path, acknowledged: list[str]) -> list[str]:
    """What is wrong with what was left, one line each."""
    return [*faults_of_records(folder, acknowledged), *faults_of_git(folder), *faults_of_tables(folder), *left_over(folder)]


def faults_of_records(folder: Path, acknowledged: list[str]) -> list[str]:
    damaged: list[DamagedLine] = []
    records = list(read_journal(folder / "home" / "journal.jsonl", on_damage=damaged.append))
    ids = Counter(record.id for record in records)
    runs = [record.body for record in records if record.kind == "run"]
    found = [f"damaged line {line.number}" for line in damaged]
    found += [f"{id} is recorded {count} times" for id, count in ids.items() if count != 1]
    found += [f"run {run} was acknowledged and is gone" for run in set(acknowledged) if f"run:{run}" not in ids]
    found += [f"run {run['run_id']} is {run['status']}: {run['reason']}" for run in runs if run["status"] not in ("ok", "lost")]
    verdicts = [record.body for record in records if record.kind == "verdict"]
    found += [f"charged: {one['reason']}" for one in verdicts if one["decision"] not in ("keep", "discard")]
    return found


def faults_of_git(folder: Path) -> list[str]:
    """Branches at their heads, a ref for each experiment, files at the branch's commit, and nothing else changed."""
    repo, home, found = folder / "repo", folder / "home", []
    refs = dict(line.split() for line in run_git(repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines())
    with Store.open(home, wait_s=5.0) as store:
        for branch in store.branches():
            head = store.head(branch.name)
            for name in {branch.name, branch.head_branch}:
                if head is not None and refs.get(f"refs/heads/{name}") != head.commit:
                    found.append(f"{name} is at {refs.get(f'refs/heads/{name}')} and its head is {head.commit}")
            if head is None or not head.scores:
                found.append(f"the head of {branch.name} is not verified")
            titles = Counter(record.experiment.title for record in store.records(branch.name))
            found += [f"{title} was tried {titles[title]} times on {branch.name}" for title in GAINS if titles[title] > 1]
            found += [f"{record.experiment.id} is not decided" for record in store.unfinished(branch.name)]
            for record in store.records(branch.name):
                experiment = record.experiment
                kept = refs.get(f"refs/experiments/{experiment.id}", experiment.commit)
                if kept != experiment.commit:
                    found.append(f"{experiment.id} is {experiment.commit} and its ref is at {kept}")
    for worktree in [repo, *sorted((home / "worktrees").glob("*"))]:
        if worktree.name.endswith(".broken"):
            found.append(f"{worktree} is left")
        elif dirty := run_git(worktree, "status", "--porcelain"):
            found.append(f"{worktree} has changes: {dirty!r}")
    return found


def faults_of_tables(folder: Path) -> list[str]:
    """The tables as they grew, and made anew from the journal."""
    with tempfile.TemporaryDirectory(prefix="rebuilt-") as other:
        shutil.copy(folder / "home" / "journal.jsonl", Path(other) / "journal.jsonl")
        grown, rebuilt = _tables(folder / "home"), _tables(Path(other))
    return [f"the table {name} is not what the journal makes" for name in TABLES.values() if grown[name] != rebuilt[name]]


def _tables(home: Path) -> dict[str, str]:
    with Store.open(home, wait_s=5.0) as store:
        return {name: json.dumps(store._tables.fetch(f"FROM {name} ORDER BY seq"), default=str) for name in TABLES.values()}


def left_over(folder: Path) -> list[str]:
    """Processes, locks and temporary files."""
    found = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive := [process for process in psutil.process_iter() if _is_ours(process, folder)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    found += [f"process {process.pid} is left" for process in alive]
    keeps = ("autoresearch-farm.lock", "farm.lock", ".packages.lock")
    for pattern in ("*.tmp", "*.lock", ".farm-tries-*", "server.json"):
        found += [f"{file.relative_to(folder)} is left" for file in folder.rglob(pattern) if file.name not in keeps]
    return found


def _is_ours(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
