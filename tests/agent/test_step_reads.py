"""What a loop's step reads of a long history: a bounded number of rows, however many experiments there are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.duplicate_edits import programs_on_same_terms
from agent.tried_by_group import TriedByGroup
from benchmarks.store import GROUP, branch_named, journal_lines, read_as_a_step, run_of
from results.store import Store
from results.tables import Tables

ROWS = 400
"""More than a step reads: the near-misses, the latest experiments and what is new."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 800 experiments on one branch."""
    folder = tmp_path_factory.mktemp("long")
    with (folder / "journal.jsonl").open("wb") as journal:
        journal.writelines(journal_lines(800, 1))
    return folder


def test_a_step_reads_a_bounded_number_of_rows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Sequence[Any]] = []
    fetch = Tables.fetch

    def counted(tables: Tables, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        rows = fetch(tables, sql, *parameters)
        read.extend(rows)
        return rows

    with Store.open(home) as store:
        tried, branch = TriedByGroup(store, GROUP), branch_named(0).name
        read_as_a_step(store, tried, branch)
        store.add_run("bench-0-000001", run_of("again", 1))
        monkeypatch.setattr(Tables, "fetch", counted)
        read_as_a_step(store, tried, branch)
        assert len(read) < ROWS, f"{len(read)} rows"


def test_what_is_found_by_its_line_is_what_all_records_say(home: Path) -> None:
    with Store.open(home) as store:
        branch = branch_named(0)
        records = store.records(branch.name)
        assert list(reversed(store.experiments.of_branch(branch.name))) == records[::-1]
        assert store.unfinished(branch.name) == [record for record in records if record.verdict is None]
        assert store.next_number(branch.name) == records[-1].experiment.number + 1
        assert store.baseline(branch.name) == records[0] and store.experiments.done(branch.name) == len(records) - 1
        explored = [record for record in records if record.experiment.kind == "explore"]
        assert list(store.experiments.of_branch(branch.name, ("explore",))[-3:]) == explored[-3:]
        assert list(programs_on_same_terms(store, branch)) == []
