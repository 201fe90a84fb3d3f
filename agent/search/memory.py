"""What peak memory earlier runs have taken, by the constants that enlarge a model: what won't fit isn't proposed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

import numpy as np

from agent.researcher import Context
from agent.search.knobs import Constants
from agent.search.tried import Tried, only_constants
from results.experiment import ExperimentRecord

UNLEARNED = 0.002
"""The weight of the prior that a constant has no effect on memory: a sixth of an octave, run once, is believed to 93%."""

STEEPEST = 2.0
"""The most octaves of memory that an octave of a constant is believed to take: a width has its square in weights."""

CENSORED_ROUNDS = 3
"""How often the fit is repeated, with what ran out of memory at what it predicts for them, or at the limit."""

_DEVICE_MEMORY = re.compile(r", ([\d.]+) GB(?:,|$)")


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """Peak memory as the head's, times a power of each whole-numbered constant relative to the head's."""

    head: Constants
    head_mb: float | None
    """None: nothing was measured."""
    limit_mb: float | None
    """None: it isn't known."""
    powers: dict[str, float]
    """How many octaves of memory an octave of a constant takes, for those that have been changed."""
    too_large: tuple[Constants, ...]
    """The constants with which runs have run out of memory."""

    def refuses(self, constants: Constants) -> bool:
        """Whether a model with these constants won't fit: all are as large as some that didn't, or predicted to be too much."""
        if any(_is_as_large(constants, known) for known in self.too_large):
            return True
        if self.head_mb is None or self.limit_mb is None:
            return False
        return self.predicted_mb(constants) > self.limit_mb

    def predicted_mb(self, constants: Constants) -> float:
        """The peak memory of a run with these constants, in MiB."""
        assert self.head_mb is not None
        octaves = _octaves(self.head, constants)
        return float(self.head_mb * 2.0 ** sum(self.powers.get(name, 0.0) * step for name, step in octaves.items()))


def learned(context: Context, records: Iterable[ExperimentRecord], tried: Tried) -> MemoryModel:
    """The model of memory by a branch's experiments that changed constants alone."""
    head_mb, limit_mb = context.head.peak_memory_mb, limit_of(context)
    steps: list[dict[str, float]] = []
    peaks: list[float | None] = []
    too_large: list[Constants] = []
    for record in records:
        known = tried.known.get(record.experiment.commit)
        if known is None or not only_constants(record):
            continue
        peak = max((run.peak_memory_mb for run in record.runs if run.status == "ok" and run.peak_memory_mb), default=None)
        ran_out = any(run.status == "oom" for run in record.runs)
        if ran_out and tried.has_heads_code(record.experiment.commit):
            too_large.append(known.constants)
        if ran_out or peak is not None:
            steps.append(_octaves(tried.constants, known.constants))
            peaks.append(None if ran_out else peak)
    powers = {} if head_mb is None else _powers(steps, peaks, head_mb, limit_mb)
    return MemoryModel(head=tried.constants, head_mb=head_mb, limit_mb=limit_mb, powers=powers, too_large=tuple(too_large))


def limit_of(context: Context) -> float | None:
    """The MiB that an idea may take: what the user says, and what the platform's name says of its device."""
    named = _DEVICE_MEMORY.search(context.branch.platform)
    limits = [context.memory_cap_mb, None if named is None else 1024 * float(named[1])]
    return min((limit for limit in limits if limit is not None), default=None)


def _powers(
    steps: list[dict[str, float]], peaks: list[float | None], head_mb: float, limit_mb: float | None
) -> dict[str, float]:
    """The powers that fit the measured peaks best; what ran out of memory took the limit at least."""
    used = [index for index, peak in enumerate(peaks) if peak is not None or limit_mb is not None]
    names = sorted({name for index in used for name in steps[index]})
    if not names:
        return {}
    moved = np.array([[steps[index].get(name, 0.0) for name in names] for index in used])
    powers = np.zeros(len(names))
    for _ in range(CENSORED_ROUNDS):
        least = log2((limit_mb or head_mb) / head_mb)
        known = [max(least, float(row @ powers)) if (peak := peaks[index]) is None else log2(peak / head_mb)
                 for index, row in zip(used, moved, strict=True)]  # fmt: skip
        fitted = np.linalg.solve(moved.T @ moved + UNLEARNED * np.eye(len(names)), moved.T @ np.array(known))
        powers = np.clip(fitted, 0.0, STEEPEST)
    return dict(zip(names, powers.tolist(), strict=True))


def _octaves(head: Constants, constants: Constants) -> dict[str, float]:
    """How many octaves each whole-numbered constant is from the head's, of those that differ."""
    sizes = _sizes(head)
    return {name: log2(size / sizes[name]) for name, size in _sizes(constants).items() if sizes.get(name, size) != size}


def _is_as_large(constants: Constants, other: Constants) -> bool:
    """Whether each whole-numbered constant is at least as large as another's."""
    sizes, others = _sizes(constants), _sizes(other)
    return sizes.keys() >= others.keys() and all(sizes[name] >= size for name, size in others.items())


def _sizes(constants: Constants) -> dict[str, int]:
    """The constants that are whole numbers, which may make a model or its batches larger."""
    return {name: value for name, value in constants.items() if type(value) is int and value > 0}
