"""Follow-ups: the farm's own next tries of an idea that one run does not settle, whichever researcher had it.

- **Bracket**: a constant whose new value was kept, with an effect of over BRACKET_SDS standard deviations, is tried midway
  between old and new, and once more as far beyond.
- **Structure**: an edit of functions or classes that was not kept, and may still help, is tried again with its nearest knob
  adjusted, since the constants were tuned for the code before.

All follows from the stored records and the head's text, so that a farm that was killed finds the same again. What is on record,
finished or not, is no loop's next follow-up.
"""

import ast
import math
from collections.abc import Callable, Collection, Iterator, Sequence

from agent.compare_programs import changed_blocks, changed_constants, program_of
from agent.duplicate_edits import questions_about, reason_not_to_run
from agent.head_text import DoesNotFit, HeadChange, changed_head
from agent.known_experiments import KnownExperiments, KnownInContext
from agent.researcher import Context
from agent.search.knobs import FIXED, Knob, knobs_of, settle
from agent.submissions import RESEARCHER as SUBMITTED
from agent.text_reader import Question, require_answers
from research.contract import Contract
from research.formatting import one_line
from research.hyperparameters import literal_text, read_constants, same_but_for_constants, write_constants
from research.recipes import Constant
from research.valid_train_py import parse, problem_with, walk
from results import policy
from results.effect_estimate import mean_and_sd
from results.experiment import Experiment, ExperimentRecord, Proposal
from results.group_state import GroupState, IdeaEstimate, estimates_of, in_order

FARM = "farm"
"""The name under which the farm's own experiments are recorded."""
BRACKET_SDS = 3.0
"""A kept constant is bracketed if its effect is more than this many standard deviations above 0."""
STRUCTURE_TRIES = 2
"""Tries of a structural edit after its first one."""

FOLLOWS = {"ASPECT_RATIO": "DEPTH", "DEVICE_BATCH_SIZE": "TOTAL_BATCH_SIZE"}
"""Constants that only follow the change of another one (`settle`)."""

TextAt = Callable[[str], str]
"""Returns the train.py at a commit."""

Require = Callable[[Sequence[Question]], None]
"""Raises NotRead if some of the questions may not be answered now."""


def next_follow_up(
    state: GroupState, context: Context, text_at: TextAt, known: KnownExperiments | None = None, *, reads: bool = True
) -> Proposal | None:
    """The follow-up to run next, an edit of the context's head; None if none is left, or the loop's last idea was one.

    `known` are the context's experiments; None: they are read from it. Researchers are not starved: at least every second idea
    of a loop is theirs, also where others are submitted from outside. The greedy rule has no follow-ups. Raises NotRead where a
    text would have to be read first, unless it `reads` texts.
    """
    require: Require = (lambda _: None) if reads else require_answers
    last = next((record.experiment for record in reversed(context.records) if record.experiment.kind == "explore"), None)
    is_researchers_turn = last is not None and last.researcher in (FARM, SUBMITTED)
    if state.farm.rules.greedy or is_researchers_turn or problem_with(context.train_py):
        return None
    for proposal in _FollowUps(state, context, text_at, known or KnownInContext(context), require).proposals():
        require(questions_about(proposal.train_py, context))
        if reason_not_to_run(proposal.train_py, context) is None:
            return proposal
    return None


def is_follow_up(experiment: Experiment) -> bool:
    """Whether an experiment is an idea of the farm's own, which is not followed up again."""
    return experiment.kind == "explore" and experiment.researcher == FARM


class _FollowUps:
    """What the records of a group leave to be followed up on one head."""

    def __init__(self, state: GroupState, context: Context, text_at: TextAt, known: KnownExperiments, require: Require) -> None:
        self.state, self.context, self.text_at, self.known, self.require = state, context, text_at, known, require
        self.max_seq_len = Contract.from_json(context.branch.contract_json).MAX_SEQ_LEN
        self.kept = policy.kept(state.farm) | frozenset(context.head.patches)

    def proposals(self) -> Iterator[Proposal]:
        """The brackets of the largest gains first, then the structural edits that are likeliest to help."""
        remembered = in_order(self.state, self.state.farm.patches.keys() | set(self.context.head.patches))
        estimated = [(self.known.with_id(one.idea), one) for one in estimates_of(self.state, remembered)]
        found = [(record, one) for record, one in estimated if record is not None]
        ideas = [(record.experiment, one) for record, one in found if _is_first_try(record)]
        for experiment, one in sorted(ideas, key=lambda idea: -idea[1].effect):
            if experiment.id in self.context.head.patches and self._is_well_above_noise(one.idea):
                yield from self._brackets(experiment, one)
        for experiment, one in sorted(ideas, key=lambda idea: -idea[1].helps):
            if self._is_open(experiment, one):
                yield from self._structures(experiment, one)

    def _is_well_above_noise(self, idea: str) -> bool:
        mean, sd = mean_and_sd(self.state.farm.posterior, idea)
        return mean > BRACKET_SDS * sd

    def _brackets(self, experiment: Experiment, found: IdeaEstimate) -> Iterator[Proposal]:
        """Other values of the only constant that an idea of the head changed, while the head has the idea's."""
        before, after = self.text_at(experiment.parent_commit), self.text_at(experiment.commit)
        self.require([(name, (before, after)) for name in ("changed_constants", "same_but_for_constants")])
        changes = changed_constants(before, after)
        moved = [name for name in changes if FOLLOWS.get(name) not in changes]
        constants = read_constants(self.context.train_py)
        if len(moved) != 1 or not same_but_for_constants(before, after):
            return
        old, new = changes[moved[0]]
        if old is None or new is None or constants.get(moved[0]) != new:
            return
        why = f"{experiment.id} ({one_line(experiment.title, 80)}) gained {found.effect:.6f} bpb, well above its noise"
        for where, value in bracket(moved[0], old, new):
            yield from self._with(self.context.train_py, moved[0], value, of=experiment, title="",
                                  hypothesis=f"{why}: a value {where} may be better still.")  # fmt: skip

    def _tries_of(self, experiment: Experiment) -> list[Experiment]:
        return [one for one in self.known.with_parent(experiment.id) if is_follow_up(one)]

    def _is_open(self, experiment: Experiment, found: IdeaEstimate) -> bool:
        """Whether a structural idea is neither in the head nor forgotten, may still help, and has tries left."""
        tries = [one.id for one in self._tries_of(experiment)]
        is_structural = bool(set(experiment.slots) - set(experiment.changes))
        farm = self.state.farm
        is_hopeless = experiment.id not in farm.patches or found.helps < farm.rules.forget or found.high <= found.price
        is_decided = bool(self.kept & {experiment.id, *tries}) or experiment.id in farm.barred
        return is_structural and not is_hopeless and not is_decided and len(tries) < STRUCTURE_TRIES

    def _structures(self, experiment: Experiment, found: IdeaEstimate) -> Iterator[Proposal]:
        """A structural edit, applied to the head, with one knob a probe higher or lower: the nearest knob first."""
        before, after = self.text_at(experiment.parent_commit), self.text_at(experiment.commit)
        if before != self.context.train_py:
            self.require([("rebased_text", (after, before, self.context.train_py))])
        try:
            edited = changed_head(self.context.train_py, HeadChange(add=(experiment,)), self.text_at)
        except DoesNotFit:
            return
        constants = read_constants(edited)
        title = one_line(experiment.title, 80)
        why = f"{experiment.id} ({title}) helps with probability {found.helps:.2f} after one try"
        for knob in nearest_knobs(before, after):
            value = constants.get(knob.name)
            here = knob.read(value)
            if value is None or here is None:
                continue
            for direction in (knob.first, -knob.first):
                moved = knob.write(value, here + direction * knob.probe)
                if moved is not None:
                    yield from self._with(edited, knob.name, moved, of=experiment, title=f"{title}, ",
                                          hypothesis=f"{why}: it may need another {knob.label}.")  # fmt: skip

    def _with(
        self, text: str, name: str, value: Constant, *, of: Experiment, title: str, hypothesis: str
    ) -> Iterator[Proposal]:
        """A text with a constant changed, and those that follow it; nothing if that can't work, or is on record.

        `title` begins the proposal's title, which ends in the change.
        """
        constants = read_constants(text)
        values = [one.changes[name][1] for one in self._tries_of(of) if name in one.changes]
        if value in values:  # on another head
            return
        changes = settle(constants, {name: value}, max_seq_len=self.max_seq_len)
        train_py = write_constants(text, changes or {})
        self.require([("program_of", (train_py,))])
        if changes and not self.known.has_program(program_of(train_py)):
            change = f"{name} {literal_text(constants[name])} -> {literal_text(value)}"
            yield Proposal(title=f"{title}{change}", hypothesis=hypothesis, train_py=train_py, researcher=FARM,
                           parents=(of.id,))  # fmt: skip


def bracket(name: str, old: Constant, new: Constant) -> list[tuple[str, Constant]]:
    """The values midway between a constant's old and new one, and as far beyond the new one, each with where it lies.

    Midway is taken on the scale of the constant's knob, unless that has no place for 0. None for strings, and unless exactly
    one number differs.
    """
    index = _moved_component(old, new)
    if index is None or name in FIXED:
        return []
    knob = next((knob for knob in knobs_of({name: new}) if (knob.component or 0) == index), None)
    before, after = _number(old, index), _number(new, index)
    start, end = (None, None) if knob is None else (knob.read(old), knob.read(new))
    values: list[Constant | None]
    if knob is None or start is None or end is None or (knob.scale == "log" and 0 in (before, after)):
        low, high = (-math.inf, math.inf) if knob is None else (knob.low, knob.high)
        values = [_with_number(new, index, n) if low <= n <= high else None for n in _numbers(before, after)]
    else:
        template = float(new) if isinstance(old, float) and isinstance(new, int) else new
        values = [knob.write(template, position) for position in ((start + end) / 2, 2 * end - start)]
    places = (f"between {literal_text(old)} and {literal_text(new)}", f"beyond {literal_text(new)}")
    found = zip(places, values, strict=True)
    return [(place, value) for place, value in found if value is not None and value not in (old, new)]


def nearest_knobs(before: str, after: str) -> list[Knob]:
    """The numeric knobs of a structural edit, the nearest first.

    First come constants that the edit itself adds or changes, then those that its functions and classes read and did not read
    before, then all others that these read.
    """
    constants, own = read_constants(after), changed_constants(before, after)
    blocks = changed_blocks(before, after)
    read, read_before = _names_in(after, blocks), _names_in(before, blocks)
    near = {name: value for name, value in constants.items() if name in own or name in read}
    numeric = {name: value for name, value in near.items() if not isinstance(value, (str, bool))}
    return sorted(knobs_of(numeric), key=lambda knob: (knob.name not in own, knob.name in read_before, -knob.prior))


def _is_first_try(record: ExperimentRecord) -> bool:
    return record.is_idea and record.verdict is not None and not is_follow_up(record.experiment)


def _names_in(train_py: str, blocks: Collection[str]) -> set[str]:
    """The names that top-level functions and classes use."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bodies = [node for node in parse(train_py).body if isinstance(node, definitions) and node.name in blocks]
    return {node.id for body in bodies for node in walk(body) if isinstance(node, ast.Name)}


def _moved_component(old: Constant, new: Constant) -> int | None:
    """The index of the only number of a constant that differs, 0 for a constant that is not a tuple; None without one."""
    before, after = (value if isinstance(value, tuple) else (value,) for value in (old, new))
    if isinstance(old, tuple) != isinstance(new, tuple) or len(before) != len(after):
        return None
    moved = [index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    numeric = not any(isinstance(value, (str, bool)) for value in (*before, *after))
    return moved[0] if len(moved) == 1 and numeric else None


def _numbers(old: float | int, new: float | int) -> tuple[float | int, float | int]:
    """The number midway from `old` to `new`, and the one as far beyond: by their ratio if they have one sign."""
    middle = math.copysign(math.sqrt(old * new), new) if old * new > 0 else (old + new) / 2
    beyond = new * new / old if old * new > 0 else 2 * new - old
    if isinstance(old, int) and isinstance(new, int):
        return round(middle), round(beyond)
    return float(f"{middle:.3g}"), float(f"{beyond:.3g}")


def _number(value: Constant, index: int) -> float | int:
    number = value[index] if isinstance(value, tuple) else value
    assert not isinstance(number, str)
    return number


def _with_number(value: Constant, index: int, number: float | int) -> Constant:
    return (*value[:index], float(number), *value[index + 1 :]) if isinstance(value, tuple) else number
