"""The stored rows of the view `history` say at each step what its runs and verdicts say together."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import duckdb
import pytest

from results.experiment import Verdict, to_body
from results.history_rows import bring_history_up_to_date
from results.history_view import HISTORY
from results.journal import JournalRecord, RecordKind
from results.schema import migrate
from results.table_rows import insert_many
from tests.results.result_samples import make_branch, make_experiment, make_run

TOGETHER = HISTORY.partition(" AS\n")[2]
"""The view as it was before its rows were stored."""


def made_up_records(draw: random.Random, count: int) -> Iterator[JournalRecord]:
    """Records in an order that a journal may have: one branch comes after its experiments, runs and verdicts come in any."""
    branches = ["autoresearch/a", "autoresearch/b", "autoresearch/late"]
    known: list[str] = []
    for at in range(count):
        kind: RecordKind = "experiment" if len(known) < 3 else draw.choice(["experiment", "run", "run", "verdict", "verdict"])
        body: dict[str, Any]
        if at in (0, 1, count // 2):
            kind, name = "branch", branches[min(at, 2)]
            key, body = name, to_body(replace(make_branch(), name=name))
        elif kind == "experiment":
            made = make_experiment(draw.randrange(30))
            key = f"{draw.choice('abc')}-{at:04d}"
            what = draw.choice(["explore", "control", "baseline", "confirm"])
            body = to_body(replace(made, id=key, branch=draw.choice(branches), kind=what, title=f"it's {at}"))
            known.append(key)
        elif kind == "run":
            status = draw.choice(["ok", "ok", "ok", "crash", "lost"])
            run = make_run(f"r{at}", draw.choice([0.9, 0.95, 1.0, 1.1]) if status == "ok" else None, status=status)
            key, body = run.run_id, {"experiment_id": draw.choice(known[-8:]), **to_body(run)}
        else:
            decision = draw.choice(["keep", "keep", "discard", "crash", "lost"])
            verdict = Verdict(decision=decision, reason=f"because {at}", gain=0.1, effect=0.001 * at, helps=0.3)
            key, body = f"v{at}", {"experiment_id": draw.choice(known), "runs": 1, **to_body(verdict)}
        yield JournalRecord(id=f"{kind}:{key}", kind=kind, time="2026-03-08T01:02:03Z", body=body)


def told(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    rows = connection.execute(sql).fetchall()
    return [tuple(round(value, 9) if isinstance(value, float) else value for value in row) for row in rows]


@pytest.mark.parametrize("seed", range(3))
def test_the_rows_say_what_all_runs_say_after_each_batch(seed: int) -> None:
    draw = random.Random(seed)
    records = [*enumerate(made_up_records(draw, 160), start=1)]
    with duckdb.connect() as connection:
        migrate(connection)
        done = 0
        while done < len(records):
            size = draw.choice([1, 2, 9, 25])
            insert_many(connection, records[done : done + size])
            done += size
            bring_history_up_to_date(connection)
            assert told(connection, "FROM history") == told(connection, TOGETHER)
        (shown,) = connection.execute("SELECT count(*), count(best_so_far), count(DISTINCT branch) FROM history").fetchall()
        assert shown[0] > shown[1] > 10 and shown[2] == 3
