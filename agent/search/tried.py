"""Which effective configurations a branch has tried, so that none is run twice.

An effective configuration is a train.py without comments, formatting, docstrings, and the notation of its constants. It has
two parts: the constants' values, and the rest of the code. The texts of past experiments are not stored: they are
reconstructed from the head's text and the records' diffs.
"""

import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from agent.compare_programs import code_of
from agent.diff import apply_diff, hunks
from agent.search.knobs import Constants
from research.hyperparameters import read_constants
from research.recipes import Constant
from results.experiment import ExperimentRecord

LOST_TRIES = 2
"""A configuration that the infrastructure lost this many times counts as tried."""

_CONSTANT = re.compile(r"(\w+) *(?::[^=]*)?=")


@dataclass(frozen=True, kw_only=True)
class _KnownCommit:
    """A commit whose text can be reconstructed from another one's."""

    constants: dict[str, Constant]
    origin: str | None
    """The commit that its text is reconstructed from; None for the head."""
    record: ExperimentRecord | None
    """The experiment whose diff leads from `origin` here."""
    reverse: bool
    """Whether the diff has to be undone instead of applied."""


class Tried:
    """The effective configurations of the head and of all recorded experiments."""

    def __init__(self, train_py: str, head_commit: str, records: Sequence[ExperimentRecord]) -> None:
        self.train_py = train_py
        self.constants = read_constants(train_py)
        self.known = self._explore(head_commit, records)
        self.codes: dict[str, str] = {}
        self.texts = {head_commit: train_py}
        self.with_constants: dict[frozenset[tuple[str, Constant]], list[str]] = defaultdict(list)
        lost: dict[frozenset[tuple[str, Constant]], int] = defaultdict(int)
        lost_commits = {r.experiment.commit for r in records if r.verdict is not None and r.verdict.decision == "lost"}
        for commit, known in self.known.items():
            key = frozenset(known.constants.items())
            if commit in lost_commits:
                lost[key] += 1
            if commit not in lost_commits or lost[key] >= LOST_TRIES:
                self.with_constants[key].append(commit)
        # an experiment that no chain of diffs connects to the head counts as tried on it
        self.unconnected = {
            frozenset(self._after(self.constants, record).items())
            for record in records
            if record.experiment.commit not in self.known and record.experiment.changes
        }

    def holds_constants(self, changes: Constants) -> bool:
        """Whether the head with these constants was tried."""
        key = frozenset({**self.constants, **changes}.items())
        return key in self.unconnected or self._holds(key, self.train_py)

    def holds(self, train_py: str) -> bool:
        """Whether this text was tried, or one with the same effective configuration."""
        return self._holds(frozenset(read_constants(train_py).items()), train_py)

    def has_heads_code(self, commit: str) -> bool:
        """Whether a known commit differs from the head in constants alone."""
        return self._code(commit) == self._code_of_text(self.train_py)

    def _holds(self, key: frozenset[tuple[str, Constant]], train_py: str) -> bool:
        commits = self.with_constants.get(key, [])
        if not commits:
            return False
        removed = set(self.train_py.split("\n")) - set(train_py.split("\n"))
        code = self._code_of_text(train_py)
        return any(self._code(commit) == code for commit in commits if self._may_lack(commit, removed))

    def _may_lack(self, commit: str, lines: set[str]) -> bool:
        """Whether an experiment may lack all these lines of the head. Most don't, which saves the slow comparison of code."""
        known = self.known[commit]
        if known.record is None or known.reverse or only_constants(known.record):
            return True
        return all(f"\n-{line}\n" in known.record.experiment.diff for line in lines)

    def _code_of_text(self, train_py: str) -> str:
        if train_py not in self.codes:
            self.codes[train_py] = code_of(train_py)
        return self.codes[train_py]

    def _code(self, commit: str) -> str:
        """The code at a commit. Experiments that changed nothing but constants share it with their origin."""
        known = self.known[commit]
        while known.origin is not None and known.record is not None and only_constants(known.record):
            commit, known = known.origin, self.known[known.origin]
        try:
            return self._code_of_text(self._text(commit))
        except (ValueError, SyntaxError):  # a diff that was cut off, or an edit that doesn't parse: equal to no other
            return commit

    def _text(self, commit: str) -> str:
        path = [commit]
        while path[-1] not in self.texts:
            origin = self.known[path[-1]].origin
            assert origin is not None  # every path leads to the head, whose text is known
            path.append(origin)
        for here, origin in zip(path[-2::-1], path[:0:-1], strict=True):
            known = self.known[here]
            diff = known.record.experiment.diff if known.record else ""
            self.texts[here] = apply_diff(self.texts[origin], diff, reverse=known.reverse)
        return self.texts[commit]

    def _explore(self, head: str, records: Sequence[ExperimentRecord]) -> dict[str, _KnownCommit]:
        """Every commit that a chain of records connects to the head, with its constants."""
        neighbours: dict[str, list[tuple[str, ExperimentRecord, bool]]] = defaultdict(list)
        for record in records:
            child, parent = record.experiment.commit, record.experiment.parent_commit
            neighbours[parent].append((child, record, False))
            neighbours[child].append((parent, record, True))
        known = {head: _KnownCommit(constants=self.constants, origin=None, record=None, reverse=False)}
        queue = deque([head])
        while queue:
            here = queue.popleft()
            for there, record, reverse in neighbours[here]:
                if there not in known:
                    constants = self._after(known[here].constants, record, reverse=reverse)
                    known[there] = _KnownCommit(constants=constants, origin=here, record=record, reverse=reverse)
                    queue.append(there)
        return known

    @staticmethod
    def _after(constants: Constants, record: ExperimentRecord, *, reverse: bool = False) -> dict[str, Constant]:
        result = dict(constants)
        for name, (old, new) in record.experiment.changes.items():
            value = old if reverse else new
            if value is None:
                result.pop(name, None)
            else:
                result[name] = value
        return result


def only_constants(record: ExperimentRecord) -> bool:
    """Whether an experiment changed nothing but constants, judging by the lines of its diff."""
    names = {name.rpartition(".")[2] for name in record.experiment.changes}
    for hunk in hunks(record.experiment.diff):
        for line in hunk.removed + hunk.added:
            code = line.strip()
            name = _CONSTANT.match(code)
            if code and not code.startswith("#") and not (name and name[1] in names):
                return False
    return True
