"""Which effective configurations a branch has tried, so that none is run twice.

An effective configuration is a train.py without what doesn't count: comments, formatting, docstrings, and how a constant's
value is written. It has two parts: the constants' values, and the rest of the code. The texts of past experiments are not
kept anywhere near; they follow from the head's text and the records' diffs.
"""

import ast
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.diff import apply_diff, hunks
from agent.search.knobs import Constants
from research.hyperparameters import read_constants
from research.profiles import Constant
from results.experiment import ExperimentRecord

LOST_TRIES = 2
"""A configuration that the infrastructure lost this often counts as tried."""

_CONSTANT = re.compile(r"([A-Z][A-Z0-9_]*) *=")


def code_of(train_py: str) -> str:
    """The code without constants' values, comments, formatting and docstrings: equal texts do the same."""
    tree = ast.parse(train_py)
    constants = read_constants(train_py)
    tree.body = [node for node in tree.body if not _sets_one_of(node, constants)]
    for node in [tree, *_definitions(tree.body)]:
        if node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
            node.body = node.body[1:]
    return ast.dump(tree)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """How a known commit is reached: from another one, by a record's diff or against it."""

    constants: dict[str, Constant]
    origin: str | None
    record: ExperimentRecord | None
    reverse: bool


class Tried:
    """The configurations that the records and the head hold."""

    def __init__(self, train_py: str, head_commit: str, records: Sequence[ExperimentRecord]) -> None:
        self.train_py = train_py
        self.constants = read_constants(train_py)
        self.places = self._explore(head_commit, records)
        self.codes: dict[str, str] = {}
        self.texts = {head_commit: train_py}
        self.with_constants: dict[frozenset[tuple[str, Constant]], list[str]] = defaultdict(list)
        lost: dict[frozenset[tuple[str, Constant]], int] = defaultdict(int)
        lost_commits = {r.experiment.commit for r in records if r.verdict is not None and r.verdict.decision == "lost"}
        for commit, place in self.places.items():
            key = frozenset(place.constants.items())
            if commit in lost_commits:
                lost[key] += 1
            if commit not in lost_commits or lost[key] >= LOST_TRIES:
                self.with_constants[key].append(commit)
        # what can't be traced to the head is taken as tried on it
        self.untraced = {
            frozenset(self._after(self.constants, record).items())
            for record in records
            if record.experiment.commit not in self.places and record.experiment.changes
        }

    def holds_constants(self, changes: Constants) -> bool:
        """Whether the head with these constants was tried."""
        key = frozenset({**self.constants, **changes}.items())
        return key in self.untraced or self._holds(key, self.train_py)

    def holds(self, train_py: str) -> bool:
        """Whether this text was tried, or one that does the same."""
        return self._holds(frozenset(read_constants(train_py).items()), train_py)

    def _holds(self, key: frozenset[tuple[str, Constant]], train_py: str) -> bool:
        commits = self.with_constants.get(key, [])
        if not commits:
            return False
        cut = set(self.train_py.split("\n")) - set(train_py.split("\n"))
        code = self._code_of_text(train_py)
        return any(self._code(commit) == code for commit in commits if self._may_lack(commit, cut))

    def _may_lack(self, commit: str, lines: set[str]) -> bool:
        """Rules out most experiments with other code before the slow comparison: they left one of these lines in."""
        place = self.places[commit]
        if place.record is None or place.reverse or only_constants(place.record):
            return True
        return all(f"\n-{line}\n" in place.record.experiment.diff for line in lines)

    def _code_of_text(self, train_py: str) -> str:
        if train_py not in self.codes:
            self.codes[train_py] = code_of(train_py)
        return self.codes[train_py]

    def _code(self, commit: str) -> str:
        """The code at a commit; experiments that changed nothing but constants share it with their neighbours."""
        place = self.places[commit]
        while place.origin is not None and place.record is not None and only_constants(place.record):
            commit, place = place.origin, self.places[place.origin]
        try:
            return self._code_of_text(self._text(commit))
        except (ValueError, SyntaxError):  # a diff that was cut, or an idea that was no Python: equal to nothing
            return commit

    def _text(self, commit: str) -> str:
        path = [commit]
        while path[-1] not in self.texts:
            origin = self.places[path[-1]].origin
            assert origin is not None  # every path leads to the head, whose text is known
            path.append(origin)
        for here, origin in zip(path[-2::-1], path[:0:-1], strict=True):
            place = self.places[here]
            diff = place.record.experiment.diff if place.record else ""
            self.texts[here] = apply_diff(self.texts[origin], diff, reverse=place.reverse)
        return self.texts[commit]

    def _explore(self, head: str, records: Sequence[ExperimentRecord]) -> dict[str, _Place]:
        """Every commit that records connect to the head, with its constants."""
        neighbours: dict[str, list[tuple[str, ExperimentRecord, bool]]] = defaultdict(list)
        for record in records:
            child, parent = record.experiment.commit, record.experiment.parent_commit
            neighbours[parent].append((child, record, False))
            neighbours[child].append((parent, record, True))
        places = {head: _Place(constants=self.constants, origin=None, record=None, reverse=False)}
        queue = deque([head])
        while queue:
            here = queue.popleft()
            for there, record, reverse in neighbours[here]:
                if there not in places:
                    constants = self._after(places[here].constants, record, reverse=reverse)
                    places[there] = _Place(constants=constants, origin=here, record=record, reverse=reverse)
                    queue.append(there)
        return places

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
    """Whether an experiment changed the values of constants and nothing else, going by the lines of its diff."""
    changes = record.experiment.changes
    for hunk in hunks(record.experiment.diff):
        for line in hunk.removed + hunk.added:
            code = line.strip()
            name = _CONSTANT.match(code)
            if code and not code.startswith("#") and not (name and name[1] in changes):
                return False
    return True


def _definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
            yield from _definitions(node.body)


def _sets_one_of(node: ast.stmt, names: Constants) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names
