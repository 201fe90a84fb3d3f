"""Edits that are not worth a run: those that change no code, break a rule, repeat others, or will crash as others did."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from agent.compare_programs import program_of, same_code, slots_of
from agent.crash_patterns import in_words
from agent.main_guard import GUARD_MISSING, begins_with_guard
from agent.researcher import Context, Refusal
from agent.text_reader import Question, about_edit
from research.carried_data import evaluation_bytes
from research.contract import Contract
from research.formatting import one_line
from research.runnable import not_runnable
from results.experiment import Branch, ExperimentRecord, Proposal
from results.store import Store

REFUSED = "proposal_refused"
"""The kind of the events that record refusals."""

LATEST_REFUSALS = 100
"""The most refusals that a researcher is told of."""

NO_CHANGE = "nothing but comments, docstrings or formatting differs from the head's train.py"
"""The reason of an edit that can't change a score."""


def reason_not_to_run(train_py: str, context: Context) -> str | None:
    """One line that says why an edit of the head is not worth a run: the rule that it breaks, or the earlier result; None if
    it is.
    """
    if same_code(context.train_py, train_py):
        return NO_CHANGE
    if reason := rule_broken(train_py, context.branch):
        return reason
    if begins_with_guard(context.train_py) and not begins_with_guard(train_py):
        return GUARD_MISSING
    earlier = context.programs.get(program_of(train_py))
    if earlier is not None:
        return result_in_words(earlier)
    slots = set(slots_of(context.train_py, train_py)) if context.crashes else set()
    return next((in_words(pattern) for pattern in context.crashes if pattern.names <= slots), None)


def rule_broken(train_py: str, branch: Branch) -> str | None:
    """One line with the rule on its text that a train.py breaks on a branch; None if it can be run."""
    refused = not_runnable(train_py, evaluation_bytes(Contract.from_json(branch.contract_json)))
    return None if refused is None else refused.reason


def questions_about(train_py: str, context: Context) -> list[Question]:
    """What takes long of `reason_not_to_run`, and of the record of an edit that is worth a run."""
    return about_edit(context.train_py, train_py, evaluation_bytes(Contract.from_json(context.branch.contract_json)))


def result_in_words(record: ExperimentRecord) -> str:
    """Which experiment has tried a program, and how that ended."""
    experiment, verdict = record.experiment, record.verdict
    who = f"{experiment.id} ({one_line(experiment.title, 80)})"
    if verdict is None:
        return f"{who} is trying the same program, and has no result yet"
    figures = [
        *([f"val_bpb {record.val_bpb:.6f}"] if record.val_bpb is not None else [one_line(verdict.reason, 120)]),
        *([f"gain {verdict.gain:+.6f}"] if verdict.gain is not None else []),
    ]
    return f"{who} has tried the same program: {verdict.decision}, {', '.join(figures)}"


class ProgramsOnSameTerms(Mapping[str, ExperimentRecord]):
    """The first experiment with each program: the branch's own, else one of the tag's other branches that compare.

    Each is looked for when it is asked for. Lost ones say nothing about a program, and controls are baselines.
    """

    def __init__(self, store: Store, branch: Branch) -> None:
        self._store, self._branch = store, branch

    def __getitem__(self, program: str) -> ExperimentRecord:
        experiments = self._store.experiments
        found = [line for line in experiments.with_program(program) if line.kind != "control"]
        found = [line for line in found if experiments.decision(line.id) != "lost"]
        names = self._names() if found else {}
        compared = [line for line in found if line.branch in names]
        if not compared:
            raise KeyError(program)
        return experiments.with_id(min(compared, key=lambda line: (names[line.branch], line)).id)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[str]:
        lines = (line for name in self._names() for line in self._store.experiments.lines_of(name))
        return (program for program in dict.fromkeys(line.program for line in lines) if program and program in self)

    def _names(self) -> dict[str, int]:
        """The branches on the same terms, each with its turn."""
        others = [other.name for other in self._store.branches(self._branch.tag) if terms_of(other) == terms_of(self._branch)]
        names = dict.fromkeys([self._branch.name, *others])
        return {name: turn for turn, name in enumerate(names)}


def programs_on_same_terms(store: Store, branch: Branch) -> Mapping[str, ExperimentRecord]:
    """The experiments that have tried a program: the branch's own first, then those of the tag's others that compare."""
    return ProgramsOnSameTerms(store, branch)


def programs_tried(records: Iterable[ExperimentRecord]) -> dict[str, ExperimentRecord]:
    """The first experiment with each program, by that program. Lost ones say nothing about it, and controls are baselines."""
    programs: dict[str, ExperimentRecord] = {}
    for record in records:
        lost = record.verdict is not None and record.verdict.decision == "lost"
        if record.experiment.program and not lost and record.experiment.kind != "control":
            programs.setdefault(record.experiment.program, record)
    return programs


def record_refusal(store: Store, branch: str, proposal: Proposal, reason: str) -> None:
    """Records a proposal that is not run, with what it cost."""
    refused = {"branch": branch, "title": one_line(proposal.title), "researcher": proposal.researcher, "reason": reason}
    store.add_event(REFUSED, {**refused, "usage": asdict(proposal.usage)})


def refusals(store: Store, branch: str) -> tuple[Refusal, ...]:
    """The branch's latest proposals that were refused, oldest first."""
    events = store.events(REFUSED, branch)[-LATEST_REFUSALS:]
    return tuple(Refusal(**{name: event[name] for name in ("title", "researcher", "reason")}) for event in events)


def terms_of(branch: Branch) -> Mapping[str, str]:
    """What must be equal for a program to get the same score on two branches, but for the noise between seeds."""
    names = ("platform", "contract_json", "score_fingerprint", "data_fingerprint")
    return {name: str(getattr(branch, name)) for name in names}
