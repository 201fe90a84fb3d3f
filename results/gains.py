"""How much a head gains over the untouched train.py by its own score, and for what cost.

All gains are in bpb, and positive is better. The one to report is that by all runs (`results/expected_gain.py`), and
`results/confirmation.py` has what fresh seeds say.
"""

from collections.abc import Iterable

from results.group_history import GroupHistory
from results.outlines import AnyRecord

BPB_STEP = 0.001
"""The gain whose price in device time is reported."""


def gain_by_scores(group: GroupHistory) -> float | None:
    """The gain that the score says with which the head was selected, over the baseline's own score; None without either.

    `farm show`, `farm audit` and results.tsv have the same two scores. Controls, which run the baseline again, count in the
    estimate.
    """
    head, baseline = group.head_record, group.baseline
    if head is None or baseline is None or head.val_bpb is None or baseline.val_bpb is None:
        return None
    return baseline.val_bpb - head.val_bpb


def device_seconds(records: Iterable[AnyRecord]) -> float:
    """The time that the runs of these experiments have taken on their devices."""
    return sum(run.total_seconds or 0.0 for record in records for run in record.runs)
