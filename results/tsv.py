"""results.tsv: a branch's experiments in the five columns of karpathy/autoresearch."""

from collections.abc import Iterable
from pathlib import Path

from research.files import write_atomically
from research.text import one_line
from results.experiment import Decision, ExperimentRecord

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"

STATUSES: dict[Decision, str] = {"keep": "keep", "discard": "discard", "crash": "crash", "invalid": "crash"}
"""The file's status by decision; lost experiments are left out."""


def write_results_tsv(path: Path, records: Iterable[ExperimentRecord]) -> None:
    """Writes, atomically, one line for each decided experiment, in the order given.

    val_bpb has six decimals; memory_gb is in GiB with one decimal. Both are 0 for a crash, as the format has it.
    """
    lines = [HEADER, *(line for record in records if (line := _line(record)))]
    write_atomically(path, ("\n".join(lines) + "\n").encode(errors="replace"))


def _line(record: ExperimentRecord) -> str | None:
    status = STATUSES.get(record.verdict.decision) if record.verdict else None
    if status is None:
        return None
    val_bpb, memory = record.val_bpb, record.peak_memory_mb
    score, memory_gb = "0.000000", "0.0"
    if status != "crash":
        score = "" if val_bpb is None else f"{val_bpb:.6f}"
        memory_gb = "" if memory is None else f"{memory / 1024:.1f}"
    description = one_line(record.experiment.title.replace('"', "'"))
    return "\t".join((record.experiment.commit[:7], score, memory_gb, status, description))
