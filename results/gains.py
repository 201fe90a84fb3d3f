"""How much a head gains over the untouched train.py: by all runs, by its own score, and for what cost.

All gains are in bpb, and positive is better. The gain by all runs is shrunk for having been selected: it is the one to report.
`results/head_gain.py` holds it as a record and in words, and `results/confirmation.py` has what fresh seeds say.
"""

from collections.abc import Iterable
from dataclasses import replace

from results import effect_estimate as estimate
from results import policy
from results.group_history import GroupHistory
from results.group_state import GroupState, usual_share_above_first
from results.head_gain import ExpectedGain
from results.outlines import AnyRecord

BPB_STEP = 0.001
"""The gain whose price in device time is reported."""


def expected_gain(state: GroupState, commit: str) -> ExpectedGain | None:
    """The gain of a commit's train.py by all runs of its group; None if it has not run."""
    patches = state.patches_at.get(commit)
    if patches is None:
        return None
    posterior = estimate.recalled(state.farm.posterior, patches)
    gain, low, high = policy.head_gain(replace(state.farm, posterior=posterior, head=patches))
    baseline, _ = policy.expected_score(state.farm, frozenset(), share=usual_share_above_first(state))
    return ExpectedGain(baseline=baseline, gain=gain, low=low, high=high, sigma=posterior.sigma)


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
