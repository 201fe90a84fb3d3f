"""Whether an experiment's first run is repeated, since its share of the machine may decide. Pure functions."""

from dataclasses import dataclass

import numpy as np

from research.result import RunResult
from results import effect_estimate as estimate
from results import policy
from results.experiment import Experiment
from results.group_state import GroupState, IdeaEstimate, estimate_of, expected_of_run, time_price


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Why a run is repeated: by its share of the machine, or by the time that it took outside the clock."""

    share: str = ""
    """How it ran, in words."""
    time_price: float = 0.0
    """What it would have to pay for the time, in bpb."""


def repetition(state: GroupState, experiment: Experiment, run: RunResult) -> Repetition | None:
    """Why an experiment's only run is repeated; None if it isn't.

    A merge and a control are repeated if their share was unusual, a merge also if its share may have made all the difference,
    or if it scored far worse than its parts promised.
    An idea is repeated if its share was unusual in the direction that decides, if the share of the runs that it is compared
    with may have decided, or if the price of time keeps it out of the head or of the near-misses: one run may have been slow.
    """
    share = state.share_of_run.get(run.run_id)
    if experiment.kind in ("merge", "control"):
        is_doubted = experiment.kind == "merge" and state.patches_at.get(experiment.commit) == state.farm.doubted
        if share is not None and share.is_unusual:
            return Repetition(share=share.words)
        why = share.uneven_words if share is not None else ""
        return Repetition(share=why or "far from what its parts promised") if is_doubted else None
    found = estimate_of(state, experiment.id)
    if found is None or found.idea in state.farm.barred:
        return None
    is_kept = found.idea in policy.kept(state.farm)
    if share is not None and share.is_unusual and _would_change(state, found, is_kept=is_kept, is_more=share.more > 0):
        return Repetition(share=share.words)
    if share is not None and _hangs_on_uneven(state, experiment, run, found, share.uneven, is_kept=is_kept):
        return Repetition(share=share.uneven_words)
    price = time_price(state, found.idea)
    return Repetition(time_price=price) if not is_kept and _is_kept_out(state, found, price) else None


def _would_change(state: GroupState, found: IdeaEstimate, *, is_kept: bool, is_more: bool) -> bool:
    """Whether more of the machine may have made an idea kept, or less of it one that may help be discarded."""
    return is_kept if is_more else not is_kept and found.helps >= state.farm.rules.forget


def _hangs_on_uneven(
    state: GroupState, experiment: Experiment, run: RunResult, found: IdeaEstimate, uneven: float, *, is_kept: bool
) -> bool:
    """Whether an idea is kept, or not, because its run had another share than those that it is compared with.

    So it is if what isn't known of the share's worth is more than what an idea that is kept gains, or than what another one
    would have had to score better.
    """
    doubt, farm = estimate.slope_sd(state.farm.posterior) * abs(uneven), state.farm
    if is_kept or run.val_bpb is None:
        return found.effect - doubt <= found.price
    others = state.patches_at[experiment.commit] - {found.idea}
    gain = expected_of_run(state, others, experiment, run) - run.val_bpb
    return gain <= policy.needed_gain(farm, found.price) < gain + doubt


def _is_kept_out(state: GroupState, found: IdeaEstimate, price: float) -> bool:
    """Whether an idea would be kept, or be a near-miss, but for what it pays for time."""
    free, scale = found.price - price, state.farm.posterior.scale
    if not price or found.effect <= free:
        return False
    helps = float(estimate.effects_of(state.farm.posterior, [found.idea]).above(np.array([free / scale]))[0])
    return helps >= state.farm.rules.keep or (helps >= state.farm.rules.forget and not found.is_near_miss)
