"""What all loops of a group have tried, as one of them asks for it at each step: nothing reads a whole branch."""

from collections.abc import Mapping

from agent.crash_patterns import CrashPattern, crash_patterns
from agent.known_experiments import KnownInStore
from results.experiment import CHANGE_TRAIN_PY, Decision, ExperimentKind
from results.group_state import GroupState
from results.group_verdicts import is_postponed, may_flip
from results.store import Store
from results.stored_records import ExperimentLine, RecordsOnDemand

MERGE: tuple[ExperimentKind, ...] = ("merge",)


class TriedByGroup:
    """The experiments of a group's branches."""

    def __init__(self, store: Store, group: str) -> None:
        self._store, self._group = store, group
        self._crashes: tuple[tuple[str, int], tuple[CrashPattern, ...]] = ("", 0), ()
        """Which crashes repeat on a commit, after how many of them."""

    def records_but_of(self, branch: str) -> RecordsOnDemand:
        """The ideas and merges of all branches of the group but one, oldest first."""
        experiments, names = self._store.experiments, self._names() - {branch}

        def find() -> list[ExperimentLine]:
            lines = [line for name in names for line in experiments.lines_of(name, CHANGE_TRAIN_PY)]
            return sorted(lines, key=lambda line: line.seq)

        return experiments.on_demand(find)

    def known_beside(self, branch: str) -> KnownInStore:
        """What a branch's follow-ups ask for."""
        return KnownInStore(self._store, branch, self._names())

    def crash_patterns(self, commit: str) -> tuple[CrashPattern, ...]:
        """The crashes that repeat among the group's ideas on a head."""
        crashed = [line.id for line in self._store.experiments.crashed_on(commit) if line.branch in self._names()]
        asked = (commit, len(crashed))
        if self._crashes[0] != asked:
            self._crashes = asked, crash_patterns(self._store.experiments.with_ids(crashed), commit)
        return self._crashes[1]

    def has_merged(self, patches: tuple[str, ...]) -> bool:
        """Whether a merge of these ideas has said something, or is under way. Reads all merges of the group."""
        merges = (record for name in self._names() for record in self._store.experiments.of_branch(name, MERGE))
        return any(record.experiment.patches == patches and not is_postponed(record) for record in merges)

    def with_ideas(self, state: GroupState, patches: frozenset[str]) -> list[ExperimentLine]:
        """The experiments that ran with just these ideas, oldest first."""
        names, experiments = self._names(), self._store.experiments
        lines = [line for commit in state.commits_of.get(patches, ()) for line in experiments.at_commit(commit)]
        return sorted((line for line in lines if line.branch in names), key=lambda line: line.seq)

    def decisions_in_question(self, state: GroupState) -> Mapping[str, Decision]:
        """The latest decisions that the runs so far may have changed, by the experiment."""
        experiments = self._store.experiments
        asked = may_flip(state, [line.id for name in self._names() for line in experiments.kept(name)])
        return {one: decision for one in asked if (decision := experiments.decision(one)) is not None}

    def _names(self) -> frozenset[str]:
        return self._store.groups.member_names(self._group)
