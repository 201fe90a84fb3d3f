"""Journal records as rows of the database's tables. Audit scores are removed here, on the way into the database."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from results.experiment import usage_from
from results.journal import JournalRecord, RecordKind

Row = dict[str, Any]
"""Column -> value."""

TABLES: Mapping[RecordKind, str] = {
    "branch": "branches",
    "experiment": "experiments",
    "run": "runs",
    "verdict": "verdicts",
    "event": "events",
}

AUDIT_FIELDS = ("audit_bpb", "audit_rows")
"""Fields of a RunResult that researchers must not see, so no table may hold them."""

# Columns that are taken from a record's body unchanged.
# fmt: off
_BRANCH_COLUMNS = (
    "tag", "loop", "profile", "platform", "score_fingerprint", "data_fingerprint", "baseline_commit", "created",
)
_EXPERIMENT_COLUMNS = (
    "id", "branch", "number", "kind", "commit", "parent_commit", "title", "hypothesis", "researcher", "parents",
    "diff", "lines_added", "lines_removed", "created",
)
_RUN_COLUMNS = (
    "experiment_id", "status", "reason", "seed", "device", "val_bpb", "training_seconds", "startup_seconds",
    "scoring_seconds", "total_seconds", "peak_memory_mb", "num_params", "consistency_mean", "consistency_max",
    "reported_steps", "reported_tokens", "reported_mfu_percent", "reported_depth", "reported_peak_memory_mb",
    "reported_recompiles", "reported_kernel", "log_tail",
)
_VERDICT_COLUMNS = (
    "experiment_id", "decision", "reason", "gain", "needed", "sigma",
)
# fmt: on


_PICKED: Mapping[RecordKind, tuple[str, ...]] = {
    "branch": _BRANCH_COLUMNS,
    "experiment": _EXPERIMENT_COLUMNS,
    "run": _RUN_COLUMNS,
    "verdict": _VERDICT_COLUMNS,
}
"""The columns of each kind that are taken from a record's body as they are."""


_RunBody = msgspec.defstruct("_RunBody", [(name, Any, None) for name in ("run_id", *_RUN_COLUMNS)])

_RUN_BODY = msgspec.json.Decoder(_RunBody)
"""Reads of a run's body what its row needs: a curve, which it doesn't, takes most of the time."""


def load_arrow() -> None:
    """Has Arrow look for pandas, as it does when it gets its first list: where that is installed, its import takes seconds, for
    which an event loop must not wait.
    """
    pa.array([0])


def row_of(position: int, record: JournalRecord) -> Row:
    """The row for a record at a position of the journal; its table is TABLES[record.kind]."""
    body = record.body
    picked = {name: _storable(body.get(name)) for name in _PICKED.get(record.kind, ())}
    return {"seq": position, **picked, **_BUILDERS[record.kind](record, body)}


def insert_many(connection: duckdb.DuckDBPyConnection, records: Iterable[tuple[int, JournalRecord]]) -> None:
    """Inserts records with their positions, all or none: one transaction, through Arrow."""
    of_kind: dict[RecordKind, list[tuple[int, JournalRecord]]] = {kind: [] for kind in TABLES}
    for position, record in records:
        of_kind[record.kind].append((position, record))
    connection.execute("BEGIN")
    try:
        for kind, batch in of_kind.items():
            if batch:
                connection.register("batch", _arrow_table(kind, batch))
                connection.execute(f"INSERT INTO {TABLES[kind]} BY NAME SELECT * FROM batch")
                connection.unregister("batch")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # there may be no transaction any more
            connection.execute("ROLLBACK")
        raise


def _arrow_table(kind: RecordKind, records: Sequence[tuple[int, JournalRecord]]) -> pa.Table:
    """The rows of records of one kind, made column by column: a long journal has millions of values."""
    bodies = [_body_of_run(record) if kind == "run" else record.body for _, record in records]
    others = [_BUILDERS[kind](record, body) for (_, record), body in zip(records, bodies, strict=True)]
    columns: dict[str, list[Any]] = {"seq": [position for position, _ in records]}
    columns |= _picked(_PICKED.get(kind, ()), bodies)
    columns |= {name: [row[name] for row in others] for name in others[0]}
    return pa.table({name: _arrow_column(values) for name, values in columns.items()})


def _body_of_run(record: JournalRecord) -> Mapping[str, Any]:
    """What a run's row needs of its body."""
    if record.is_read:
        return record.body
    try:
        return msgspec.structs.asdict(_RUN_BODY.decode(record.text))
    except msgspec.MsgspecError:  # half a surrogate pair
        return record.body


def _picked(names: Sequence[str], bodies: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """These fields of all bodies, None where one is missing."""
    try:
        rows = map(itemgetter(*names), bodies) if names else ()
        return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    except KeyError:  # records of another version of the farm
        return {name: [body.get(name) for body in bodies] for name in names}


def _arrow_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError):
        return pa.array([_storable(value) for value in values])


def without_audit(body: Mapping[str, Any]) -> dict[str, Any]:
    """A run's body without its audit scores."""
    return {name: value for name, value in body.items() if name not in AUDIT_FIELDS}


_AUDIT_TEXT = re.compile(r'"audit_bpb": [-+.\w]+, "audit_rows": [-+.\w]+, ')
"""The audit fields in a run's JSON."""


def _text_without_audit(record: JournalRecord) -> str:
    """A run's body without its audit scores, as JSON.

    They are cut out of its text where they stand there once: within a string their quotes would have backslashes.
    """
    text, begin = record.text, record.text.find('"audit_bpb": ')
    found = _AUDIT_TEXT.match(text, begin) if begin >= 0 else None
    if found is None or any(text.count(f'"{name}": ') != 1 for name in AUDIT_FIELDS):
        return json.dumps(without_audit(record.body))  # all of it
    return text[:begin] + text[found.end() :]


def _branch_row(record: JournalRecord, body: Mapping[str, Any]) -> Row:
    return {"id": body["name"], "record": json.dumps(body)}


def _experiment_row(record: JournalRecord, body: Mapping[str, Any]) -> Row:
    usage, changes = body["usage"], body["changes"]
    is_free = not any(usage.values())  # as most ideas of a search are
    return {
        "changes": _json_of(changes) if changes else "{}",
        "model": usage["model"],
        "cost_usd": usage["cost_usd"],
        "tokens": None if is_free else usage_from(usage).tokens or None,
        "proposal_seconds": usage["seconds"] or None,
        "record": record.body_text(),
    }


def _run_row(record: JournalRecord, body: Mapping[str, Any]) -> Row:
    return {
        "id": body["run_id"],
        "created": record.time,
        "record": _text_without_audit(record),
    }


def _verdict_row(record: JournalRecord, body: Mapping[str, Any]) -> Row:
    return {"id": _key(record), "created": record.time, "record": record.body_text()}


def _event_row(record: JournalRecord, body: Mapping[str, Any]) -> Row:
    details = body["details"]
    return {"id": _key(record), "kind": body["kind"], "created": record.time, "record": json.dumps(details)}


def _key(record: JournalRecord) -> str:
    """The record's id without the kind that precedes it in the journal."""
    return record.id.partition(":")[2]


def _storable(value: Any) -> Any:
    """The value as any column accepts it: half a surrogate pair becomes `?`, and an integer beyond 64 bits None."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return value


def _json_of(changes: Mapping[str, Any]) -> str:
    """Changes as a JSON column accepts them."""
    try:
        return json.dumps(changes, allow_nan=False)
    except ValueError:
        return json.dumps({name: _finite(pair) for name, pair in changes.items()})


def _finite(value: Any) -> Any:
    """The value as a JSON column accepts it: NaN and infinities become text."""
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_BUILDERS: Mapping[RecordKind, Callable[[JournalRecord, Mapping[str, Any]], Row]] = {
    "branch": _branch_row,
    "experiment": _experiment_row,
    "run": _run_row,
    "verdict": _verdict_row,
    "event": _event_row,
}
