"""The gain of a head over the untouched train.py by all runs of its group, shrunk for having been selected.

`results/head_gain.py` holds it as a record and in words.
"""

from dataclasses import replace

from results import effect_estimate as estimate
from results import policy
from results.group_state import GroupState, usual_share_above_first
from results.head_gain import ExpectedGain


def expected_gain(state: GroupState, commit: str) -> ExpectedGain | None:
    """The gain of a commit's train.py by all runs of its group; None if it has not run."""
    patches = state.patches_at.get(commit)
    if patches is None:
        return None
    posterior = estimate.recalled(state.farm.posterior, patches)
    gain, low, high = policy.head_gain(replace(state.farm, posterior=posterior, head=patches))
    baseline, _ = policy.expected_score(state.farm, frozenset(), share=usual_share_above_first(state))
    return ExpectedGain(baseline=baseline, gain=gain, low=low, high=high, sigma=posterior.sigma)
