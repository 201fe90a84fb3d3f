"""Records of the store as objects. None ever changes, so that those that were parsed lately need not be parsed again."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from research.result import RunResult
from results.experiment import Experiment, Verdict, experiment_from, verdict_from
from results.journal import RecordKind
from results.table_rows import without_audit

Rows = Callable[..., list[tuple[Any, ...]]]
"""The rows of a query with parameters."""

Record = TypeVar("Record")


class ParsedRecords:
    """The experiments, runs and verdicts that have been asked for. Any thread may ask."""

    def __init__(self, rows: Rows, *, most: int) -> None:
        """`most` is how many of each kind are kept."""
        self._rows, self._most = rows, most
        self._lock = threading.Lock()
        self._experiments: dict[str, Experiment] = {}
        self._runs: dict[str, RunResult] = {}
        self._verdicts: dict[str, Verdict] = {}

    def experiments(self, ids: Sequence[str]) -> list[Experiment]:
        """The experiments with these ids, in the order given."""
        return self._parsed("experiments", ids, self._experiments, experiment_of)

    def runs(self, ids: Sequence[str]) -> list[RunResult]:
        """The runs with these ids, in the order given."""
        return self._parsed("runs", ids, self._runs, RunResult.from_json)

    def verdicts(self, ids: Sequence[str]) -> list[Verdict]:
        """The verdicts with these ids, in the order given."""
        return self._parsed("verdicts", ids, self._verdicts, verdict_of)

    def keep(self, kind: RecordKind, id: str, body: Mapping[str, Any]) -> None:
        """Keeps a record that was added now, as it would be read from the tables."""
        kept: dict[str, dict[str, Any]] = {"experiment": self._experiments, "run": self._runs, "verdict": self._verdicts}
        known = kept.get(kind)
        if known is None:
            return
        text = json.dumps(without_audit(body) if kind == "run" else body)
        parsed = _PARSERS[kind](text)
        with self._lock:
            if len(known) > self._most:
                known.clear()
            known[id] = parsed

    def _parsed(self, table: str, ids: Sequence[str], known: dict[str, Record], parse: Callable[[str], Record]) -> list[Record]:
        with self._lock:
            missing = [id for id in ids if id not in known]
            if missing:
                found = {id: known[id] for id in ids if id in known}
                rows = self._rows(f"SELECT id, record FROM {table} WHERE id = ANY(?)", missing)
                new = {id: parse(body) for id, body in rows}
                if len(known) > self._most:
                    known.clear()
                known.update(new)
                found.update(new)
                return [found[id] for id in ids]
            return [known[id] for id in ids]


def experiment_of(text: str) -> Experiment:
    """The experiment that a row's JSON holds."""
    return experiment_from(json.loads(text))


def verdict_of(text: str) -> Verdict:
    """The verdict that a row's JSON holds."""
    return verdict_from(json.loads(text))


_PARSERS: Mapping[str, Callable[[str], Any]] = {"experiment": experiment_of, "run": RunResult.from_json, "verdict": verdict_of}
