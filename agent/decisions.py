"""What a loop decides about its experiments: how often each runs, and its verdict."""

import math
from dataclasses import replace
from pathlib import Path

from agent.adoption import put_in_by
from agent.observer import LoopObserver
from agent.shared_research import SharedResearch
from research.result import RunResult
from results import policy
from results.experiment import CHANGE_TRAIN_PY, IDEAS, Experiment, ExperimentRecord, Verdict
from results.group_state import GroupState, seed_of, usual_share_above_first, without_pins
from results.group_verdicts import idea_verdict, measurement_verdict, merge_verdict
from results.overfitting import ON_VALIDATION_ALONE, measure_overfitting
from results.repetition import repetition
from results.store import Store
from results.verdict import NoisePrior, Rule, baseline_verdict, control_verdict, figure, greedy_verdict, kept_by_hand

BASELINE_AGAIN = "baseline again"
"""How the titles of controls begin that ask whether earlier scores still compare."""


class Decisions:
    """Decides for one branch, by all runs of its group."""

    def __init__(self, *, branch: str, store: Store, shared: SharedResearch, observer: LoopObserver, noise: NoisePrior,
                 rule: Rule, baseline_runs: int, memory_cap_mb: float | None, runs_folder: Path) -> None:  # fmt: skip
        """`baseline_runs` is how often a baseline runs that is the only one of its group; `runs_folder` has the runs' files."""
        self._branch, self._store, self._shared, self._observer = branch, store, shared, observer
        self._noise, self._rule, self._baseline_runs, self._memory_cap_mb = noise, rule, baseline_runs, memory_cap_mb
        self._runs_folder = runs_folder

    def baseline(self) -> ExperimentRecord:
        """The branch's baseline as it was measured."""
        baseline = self._store.baseline(self._branch)
        assert baseline is not None, "the baseline comes first"
        return baseline

    def sigma(self) -> float:
        """The standard deviation of val_bpb between seeds, as estimated by all runs of the group."""
        return self._shared.state().farm.posterior.sigma

    def is_due(self, experiment: Experiment, runs: tuple[RunResult, ...]) -> bool:
        """Whether an experiment needs a run that it has not had."""
        if not all(run.status == "ok" for run in runs):
            return False
        if experiment.kind != "baseline":
            return not runs or (len(runs) == 1 and self._is_to_be_repeated(experiment, runs[0]))
        alone = len(self._store.groups.members(self._shared.group)) == 1
        return len(runs) < (self._baseline_runs if alone else 1)

    def verdict(self, experiment: Experiment, runs: tuple[RunResult, ...], *, by_hand: bool = False) -> Verdict:
        """The verdict on an experiment's runs; `by_hand`: on a commit that a person has put on the branch.

        Raises ValueError without a run.
        """
        state = self._shared.state()
        if by_hand:
            return kept_by_hand(self._by_rule(without_pins(state, put_in_by(state, experiment)), experiment, runs))
        return self._by_rule(state, experiment, runs)

    def _by_rule(self, state: GroupState, experiment: Experiment, runs: tuple[RunResult, ...]) -> Verdict:
        if experiment.kind == "baseline":
            return baseline_verdict(runs, self._noise)
        if experiment.kind == "merge":
            return merge_verdict(state, experiment, runs)
        if experiment.kind == "control" and experiment.title.startswith(BASELINE_AGAIN):
            return control_verdict(runs, self.baseline(), self.sigma())
        if experiment.kind in ("control", "wave"):
            return measurement_verdict(state, experiment, runs)
        if self._rule == "greedy":
            head = self._shared.head()
            assert head is not None, "the baseline comes first"
            return greedy_verdict(runs, head)
        return idea_verdict(state, experiment, runs)

    def bar_if_unfit(self, experiment: Experiment, runs: tuple[RunResult, ...]) -> None:
        """Keeps ideas out of the head that need more memory than they may, or whose gain the audit rows don't show.

        Those are the idea of an exploration, and what a merge adds to the head.
        """
        self._bar_if_too_large(experiment, runs)
        if experiment.kind not in CHANGE_TRAIN_PY or not any(run.status == "ok" for run in runs):
            return
        head = self._shared.head()
        assert head is not None, "the baseline comes first"
        before = self._store.record(head.experiment_id)
        found = measure_overfitting(before, self._store.record(experiment.id), self._runs_folder)
        if found is None or not found.is_on_validation_alone:
            return
        for idea in {experiment.id} if experiment.kind != "merge" else set(experiment.patches) - set(head.patches):
            self._shared.rule("bar", idea, ON_VALIDATION_ALONE)

    def _bar_if_too_large(self, experiment: Experiment, runs: tuple[RunResult, ...]) -> None:
        peak = max((run.peak_memory_mb or 0.0 for run in runs if run.status == "ok"), default=0.0)
        cap = self._memory_cap_mb
        if experiment.kind in IDEAS and cap is not None and peak > cap:
            self._shared.rule("bar", experiment.id, f"it takes {peak:.0f} MiB, and the cap is {cap:.0f}")

    def keep_below(self, seed: int) -> float | None:
        """The val_bpb above which a run of an idea is checked less, since it is not kept; None while there is no baseline.

        It is half a sigma more than the head is expected to score under this seed, rounded up to a sigma, so that it is the
        same for runs that follow each other.
        """
        head = self._shared.head()
        if head is None or self._rule == "greedy":
            return None if head is None else head.mean
        record, farm = self._store.record(head.experiment_id), self._shared.state().farm
        drawn = seed_of(record.experiment, replace(record.runs[-1], seed=seed)) if record.runs else None
        patches, share = frozenset(head.patches) & farm.patches.keys(), usual_share_above_first(self._shared.state())
        expected, _ = policy.expected_score(farm, patches, drawn, share=share)
        sigma = farm.posterior.model.sigma
        return math.ceil(expected / sigma + 0.5) * sigma

    def _is_to_be_repeated(self, experiment: Experiment, run: RunResult) -> bool:
        """Whether what a run had of its machine may decide, so that one more says more. Whoever watches is told why."""
        why = None if self._rule == "greedy" else repetition(self._shared.state(), experiment, run)
        if why is None:
            return False
        if why.share:
            self._observer.on_event("share_unusual", branch=self._branch, run=run.run_id, share=why.share)
        else:
            self._observer.on_event("overhead_unusual", branch=self._branch, run=run.run_id, price=figure(why.time_price))
        return True
