"""The states of groups in a file of the home: replaying a long history takes minutes, and reading its result a second.

The file is a cache of what follows from the journal. For each state it has the position in the journal up to which it includes
the records, and a checksum over all records up to there. It is not used if the journal differs, nor by another version of the
code, of Python or of NumPy, so that what is read is what a replay would give, to the last bit.
"""

import io
import logging
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from research.files import write_atomically
from results.code_version import code_version
from results.collection import without_collection
from results.effect_estimate import Belief, Estimate
from results.effect_prior import EffectPrior, NoiseCount
from results.group_state import GroupState
from results.growing import GrowingMapping, GrowingSequence
from results.machine_shares import FirstShare, MachineShare
from results.observations import NoiseModel, Observation
from results.policy_state import Change, FarmState, Finished, Patch, Rules
from results.time_prices import RunTimes, UsualTimes

log = logging.getLogger(__name__)

FILE = "group_states.pickle"

RECORDS_BETWEEN, SHARE_BETWEEN = 1_000, 0.1
"""A state is written again after this many new records of its group, or after this share of all, whichever is more."""

CLASSES: tuple[type, ...] = (
    Belief, Change, EffectPrior, Estimate, FarmState, Finished, FirstShare, GroupState, GrowingMapping, GrowingSequence,
    MachineShare, NoiseCount, NoiseModel, Observation, Patch, Rules, RunTimes, UsualTimes,
)  # fmt: skip
"""The classes of which a state consists, beside Python's own and NumPy's arrays: nothing else is made from a file."""

States = dict[str, tuple[int, GroupState]]
"""The state of each group, with the position in the journal up to which it has all records."""


class SavedStates:
    """The file with the states of a home's groups."""

    def __init__(self, home: Path, checksum: Callable[[int], int | None], *, writes: bool = True) -> None:
        """`checksum` returns that of the journal's records up to a position; None if there are fewer. Unless this process
        `writes` the home, `save` does nothing.
        """
        self._path, self._checksum, self._writes = home / FILE, checksum, writes

    def load(self) -> States:
        """The states that follow from the first records of the journal; none without a file, or with one of another journal or
        version.
        """
        try:
            with without_collection():
                version, found = _Reader(io.BytesIO(self._path.read_bytes())).load()
            if version != _version():
                return {}
            return {group: (at, state) for group, (at, checksum, state) in found.items() if self._checksum(at) == checksum}
        except FileNotFoundError:
            return {}
        except Exception as problem:  # whatever stands in a damaged file
            log.warning("%s can't be read and is left out: %s", self._path, problem)
            return {}

    def save(self, states: Mapping[str, tuple[int, GroupState]]) -> None:
        """Replaces the file. A failure to write it is logged and otherwise ignored, since nothing depends on the file."""
        if not self._writes:
            return
        found = {group: (at, self._checksum(at), state) for group, (at, state) in states.items()}
        try:
            write_atomically(self._path, pickle.dumps((_version(), found), protocol=5), private=True)
        except OSError as problem:
            log.warning("%s can't be written: %s", self._path, problem.strerror)


class _Reader(pickle.Unpickler):
    """Reads nothing but states: a file of anything else is refused before it does something."""

    def find_class(self, module: str, name: str) -> Any:
        found = _allowed().get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a state")
        return found


@lru_cache(maxsize=1)
def _allowed() -> Mapping[tuple[str, str], Any]:
    """What a state's file may name."""
    array = np.zeros(1)
    makers: list[Any] = [
        array.__reduce__()[0],
        array.__reduce_ex__(5)[0],
        np.ndarray,
        np.dtype,
        np.float64(0).__reduce__()[0],
        frozenset,
    ]
    named: list[Any] = [*CLASSES, *makers]
    return {(one.__module__, one.__qualname__): one for one in named}


def _version() -> str:
    """A name for what states are computed by: the code of these packages, Python and NumPy."""
    return f"{code_version()} {sys.version} {np.__version__}"
