"""Waves: near-misses combined on the head by a Plackett-Burman design (`results/waves.py`), as events and runs of the store."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from results import policy, waves
from results.experiment import Head
from results.group_entries import RULING
from results.policy_state import FarmState, Work
from results.store import Store

WAVE = "wave"
"""The kind of the events that record a wave: its members and its runs."""

FEWEST = 3
"""Fewer near-misses than these are no wave."""


@dataclass(frozen=True, kw_only=True)
class WaveRun:
    """One run of a wave."""

    title: str
    base: str
    """The head's commit when the wave began."""
    inside: tuple[str, ...]
    """The members in it."""
    patches: frozenset[str]
    left_out: tuple[str, ...]


class Waves:
    """The waves of a group."""

    def __init__(self, store: Store, group: str) -> None:
        self._store, self._group = store, group

    def start(self, state: FarmState, head: Head, *, misfit: Callable[[Head, Work], str | None]) -> bool:
        """Records a wave of the near-misses on the head. Returns False if there are too few, or one had the same.

        `misfit` returns the first idea of a run that doesn't fit the head beside the others, or can't be taken out of it.
        """
        if self._under_way() is not None:
            return True
        state = replace(state, head=frozenset(head.patches))
        members, runs = _fitting(state, head, misfit)
        earlier = self._store.events(WAVE, self._group)
        had = [(frozenset(wave["members"]), wave["base"]) for wave in earlier]
        if len(members) < FEWEST or (frozenset(members), head.commit) in had:
            return False
        planned = [
            {
                "inside": [name for name in members if name in work.patches],
                "patches": sorted(work.patches),
                "left_out": sorted(work.left_out),
            }
            for work in runs
        ]
        number = len(earlier) + 1
        wave = {"branch": self._group, "group": self._group, "number": number, "base": head.commit, "members": list(members),
                "runs": planned}  # fmt: skip
        return self._store.add_event(WAVE, wave)

    def next_run(self) -> WaveRun | None:
        """The first run of the wave under way that no loop has begun."""
        wave = self._under_way()
        if wave is None:
            return None
        begun = self._store.groups.titles_of_kind(self._group, "wave")
        for number, run in enumerate(wave["runs"], start=1):
            title = f"wave {wave['number']}: run {number} of {len(wave['runs'])}"
            if title not in begun:
                return WaveRun(title=title, base=wave["base"], inside=tuple(run["inside"]), patches=frozenset(run["patches"]),
                               left_out=tuple(run["left_out"]))  # fmt: skip
        return None

    def ended(self) -> tuple[str, ...] | None:
        """The members of the wave under way if all of its runs have ended; None otherwise."""
        wave = self._under_way()
        if wave is None:
            return None
        done = self._store.groups.titles_of_kind(self._group, "wave", done=True)
        titles = [f"wave {wave['number']}: run {number} of {len(wave['runs'])}" for number in range(1, len(wave["runs"]) + 1)]
        return tuple(wave["members"]) if all(title in done for title in titles) else None

    def _under_way(self) -> dict[str, Any] | None:
        """The wave that has not been concluded; None if all have."""
        begun = self._store.events(WAVE, self._group)
        concluded = sum(event["ruling"] == "wave" for event in self._store.events(RULING, self._group))
        return begun[concluded] if len(begun) > concluded else None


def _fitting(
    state: FarmState, head: Head, misfit: Callable[[Head, Work], str | None]
) -> tuple[tuple[str, ...], tuple[Work, ...]]:
    """The near-misses of which every run of one wave can be made, and these runs; fewer than FEWEST members have none."""
    names = list(policy.near_misses(state))
    while len(members := waves.members(state, names)) >= FEWEST:
        runs = waves.wave(state, members)
        found = next((idea for work in runs if (idea := misfit(head, work)) is not None), None)
        if found is None:
            return members, runs
        names = [name for name in names if name != found and found not in policy.rivals(state, state.patches[name], state.head)]
    return members, ()
