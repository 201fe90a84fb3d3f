"""The results.tsv of each loop's branch, beside the decisions in the store."""

import asyncio
from pathlib import Path

import pytest

from agent import results_table
from agent.loop import ResearchLoop
from agent.repo.branch_names import worktree_folder
from tests.agent.shared_lab import SharedLab


def statuses(lab: SharedLab, branch: str) -> dict[str, str]:
    """The status of each kept or discarded idea by its title, in the branch's results.tsv."""
    table = worktree_folder(lab.home, branch) / "results.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    return {row[4]: row[3] for row in rows if row[4] in "ABCDEFGHIJKLMNOP"}


def decisions(lab: SharedLab, branch: str) -> dict[str, str]:
    """The latest decision on each idea by its title, in the store."""
    records = [record for record in lab.store.records(branch) if record.experiment.title in "ABCDEFGHIJKLMNOP"]
    return {record.experiment.title: record.verdict.decision for record in records if record.verdict is not None}


def test_a_decision_that_another_loops_run_changes_is_in_the_table_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setattr(results_table, "TABLE_SHARE", float("inf"))
    lab = SharedLab(tmp_path)
    flipped: list[str] = []

    async def step(loop: ResearchLoop) -> None:
        known = len(lab.listener.events)
        await loop.step()
        changed = [fields["branch"] for kind, fields in lab.listener.events[known:] if kind == "decision_changed"]
        flipped.extend(branch for branch in changed if branch != loop.branch.name)
        for name in lab.names:
            assert statuses(lab, name) == decisions(lab, name)

    async def research() -> None:
        loops = lab.open()
        for loop in loops:
            del loop._write_tables_if_due  # type: ignore[attr-defined]
            await loop.start()
        for at in range(40):
            await step(loops[at % 2])
            if flipped:
                break
        for loop in loops:
            await loop.close()

    asyncio.run(research())
    lab.store.close()
    assert flipped, "a run of one loop has changed a decision on the other's branch"
