"""The settings of one child of the judge: written by the judge, read once by the child. Standard library only.

They are one JSON object in one environment variable. A process that only loads a train.py, without a judge, needs the contract
alone.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from research.contract import Contract

SETTINGS_VARIABLE = "AUTORESEARCH_SETTINGS"


@dataclass(frozen=True, kw_only=True)
class ChildSettings:
    """Everything that the judge tells a child at its start, except for the environment variables of other libraries."""

    contract: Contract
    seed: int = 0
    """Seeds the initialisation and the order of rows."""
    device: str = "cpu"
    """`cuda:0`, `mps` or `cpu`."""
    batch_rows: int = 1
    """Rows that a scorer answers at once."""
    threads: int | None = None
    """CPU threads; None leaves the choice to torch."""
    gpu_memory_bytes: int | None = None
    """GPU memory that torch may allocate in this child; None: no limit."""
    compare_seeds: bool = False
    """Whether this scorer builds the model under a second seed, too, to see whether that changes anything."""
    rehearse: bool = False
    """Whether the trainer has a rehearsal (research/child/rehearsal.py)."""
    channel: int | None = None
    """Descriptor of the child's end of its channel to the judge; None without a judge."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def environment(self) -> dict[str, str]:
        """The environment variable that carries the settings."""
        return {SETTINGS_VARIABLE: self.to_json()}

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "ChildSettings | None":
        """The settings of this process; None if it has none."""
        text = environment.get(SETTINGS_VARIABLE)
        if text is None:
            return None
        values = json.loads(text)
        return ChildSettings(**{**values, "contract": Contract(**values["contract"])})
