"""Combining near-misses: a Plackett-Burman design tries half of them in every run, so that each run says something of all.

A wave of 12 runs measures 11 patches, each with the precision of 12 runs, where one run of each gives that of one. Its
runs go into the regression like any other. Pure functions.
"""

from collections.abc import Sequence
from dataclasses import replace

from results import policy
from results.policy_state import Change, FarmState, Work

MOST = 11
"""The most patches in one wave, which then takes 12 runs; fewer patches take the next multiple of 4."""


def members(state: FarmState, names: Sequence[str]) -> tuple[str, ...]:
    """Those of these candidates that one wave can hold: no two with a slot in common, the first of them first."""
    chosen: list[str] = []
    for name in names:
        if len(chosen) < MOST and not policy.rivals(state, state.patches[name], chosen):
            chosen.append(name)
    return tuple(chosen)


def wave(state: FarmState, names: Sequence[str]) -> tuple[Work, ...]:
    """The runs of one wave of these members on the head. Raises ValueError for no members, or for too many."""
    if not 1 <= len(names) <= MOST:
        raise ValueError(f"a wave has 1 to {MOST} patches, not {len(names)}")
    from pydoe import pbdesign  # seconds to import, and most farms run no wave

    runs = []
    for row in pbdesign(len(names)):
        inside = frozenset(name for name, sign in zip(names, row, strict=True) if sign > 0)
        others = frozenset(rival for name in inside for rival in policy.rivals(state, state.patches[name], state.head))
        runs.append(Work(kind="wave", patches=(state.head - others) | inside, left_out=others))
    return tuple(runs)


def concluded(state: FarmState, names: Sequence[str]) -> FarmState:
    """The state after a wave: a merge of the members that are expected to help is planned, unless other merges are."""
    now = policy.standing(state, [name for name in names if name in state.patches])
    best = sorted((name for name, net in now.net.items() if net > 0), key=lambda name: (-now.net[name], name))
    changes = []
    for name in best:
        others = policy.rivals(state, state.patches[name], state.head)
        if sum(policy.standing(state, tuple(others)).net.values()) < now.net[name]:
            changes.append(Change(add=frozenset({name}), remove=others))
    return replace(state, plan=(tuple(changes),)) if changes and not state.plan else state
