"""Crashes that repeat: the same error from edits of the same names, which further such edits of a head would only repeat."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from research.formatting import one_line
from research.result import RunResult
from results.experiment import Experiment, ExperimentRecord

REPEATS = 3
"""Experiments with the same error that make a pattern."""
LATEST = 30
"""The most crashes with one error that are compared with each other."""

_ERROR = re.compile(r"(\w+\.)*[A-Z]\w*(:|$)")
"""The start of a traceback's last line: `torch.cuda.OutOfMemoryError: ...`, `AssertionError`."""
_FRAME = re.compile(r'^ +File ".*", line \d+, in (.+)$', re.MULTILINE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class CrashPattern:
    """Several experiments on one head that changed the same names and ended in the same error."""

    error: str
    """The error of the first of them."""
    names: frozenset[str]
    """The constants, functions and classes that all of them changed."""
    experiments: tuple[str, ...]
    """Their ids."""


def crash_patterns(records: Iterable[ExperimentRecord], head_commit: str) -> tuple[CrashPattern, ...]:
    """The patterns among the experiments that were tried on a head."""
    crashes: dict[str, list[tuple[Experiment, str]]] = {}
    for record in records:
        experiment = record.experiment
        run = next((run for run in reversed(record.runs) if run.status == "crash"), None)
        if record.is_idea and experiment.parent_commit == head_commit and run is not None:
            error = _error_of(run)
            if error is not None:
                crashes.setdefault(signature(run, error), []).append((experiment, error))
    patterns: dict[tuple[str, frozenset[str]], CrashPattern] = {}
    for name, crashed in crashes.items():
        for group in combinations(crashed[-LATEST:], REPEATS):
            names = frozenset.intersection(*(frozenset(experiment.slots) for experiment, _ in group))
            if names and (name, names) not in patterns:
                ids = tuple(experiment.id for experiment, _ in group)
                patterns[name, names] = CrashPattern(error=group[0][1], names=names, experiments=ids)
    return tuple(patterns.values())


def signature(run: RunResult, error: str) -> str:
    """What equal errors have in common: the function that raised, and the error without its numbers and quoted names."""
    frames = _FRAME.findall(run.log_tail)
    return f"{frames[-1] if frames else ''} {_NUMBER.sub('0', _QUOTED.sub('...', error))}"


def in_words(pattern: CrashPattern) -> str:
    """Which experiments crashed, and how."""
    names = ", ".join(sorted(pattern.names))
    return f"{', '.join(pattern.experiments)} changed {names} on this head and ended in the same error: {pattern.error}"


def _error_of(run: RunResult) -> str | None:
    """The last line of the traceback; None if the run ended without one, such as by a signal."""
    _, found, trace = run.log_tail.rpartition("Traceback (most recent call last)")
    lines = [*(trace.splitlines() if found else ()), run.reason]
    error = next((line for line in lines if _ERROR.match(line)), None)
    return None if error is None else one_line(error, 160)
