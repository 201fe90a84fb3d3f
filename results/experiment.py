"""The records of research: what was proposed, tried and decided. Frozen, plain data throughout."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from research.recipes import Constant
from research.result import RunResult

Decision = Literal["keep", "discard", "crash", "invalid", "lost"]
"""How an experiment ended: `crash` covers oom, diverged and timeout; `lost` is the infrastructure's fault, or
what a person has abandoned (`ABANDONED`)."""

ABANDONED = "abandoned by a person"
"""The reason of the verdict `lost` on an experiment that was interrupted and that nobody wants to finish."""

ExperimentKind = Literal["baseline", "explore", "confirm", "manual", "control", "merge", "wave"]

IDEAS: tuple[ExperimentKind, ...] = ("explore", "manual")
"""The kinds that try something new, as an edit by a researcher or a person does."""

CHANGE_TRAIN_PY: tuple[ExperimentKind, ...] = (*IDEAS, "merge")
"""The kinds whose train.py may become the head."""

MEASUREMENTS: tuple[ExperimentKind, ...] = ("control", "confirm", "wave")
"""The kinds that are neither kept nor discarded."""

PREDICTED: tuple[ExperimentKind, ...] = ("control", "wave", "merge")
"""The kinds whose score all runs have predicted, so that it says how a device scores."""
"""`baseline` measures the first commit of a branch; `explore` is a researcher's idea and `manual` one from `farm try`; `merge`
verifies a head that is put together from several ideas; `wave` runs half of some near-misses on the head; `control` runs the
head or the baseline again; `confirm` runs a commit under fresh seeds, for the report alone."""


CostBasis = Literal["", "native-reported", "list-price-estimate", "missing"]
"""Where a cost in US dollars is from: the researcher's own program reports it; its tokens at list prices; or some of it,
perhaps all, isn't known. Empty: nothing was asked, or an older version of the farm recorded it."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The cost of asking a researcher for a proposal."""

    researcher: str | None = None
    """Who was asked; None if nobody was, or if an older version of the farm recorded it."""
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None
    """US dollars; None if the price is unknown."""
    cost_basis: CostBasis = ""
    estimated: bool = False
    """Whether some of the tokens are an estimate from the length of the texts, because the API didn't report them."""
    proposal: str = ""
    """Id of the proposal for which it was asked, which the experiment that came of it has as well; empty if an older version of
    the farm recorded it."""
    answers: int = 0
    """Number of the model's answers. Each is an event `answer` in the journal, with its cost; 0: the cost is only here."""
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """All tokens: read, written and cached."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """An idea: an edit of train.py and why it should help."""

    title: str
    """One short line, which becomes the commit's subject and the description in results.tsv."""
    hypothesis: str
    """Why it should lower val_bpb."""
    train_py: str
    """The whole new text of train.py."""
    researcher: str
    """The name of the researcher; `you` for an edit made by hand."""
    parents: tuple[str, ...] = ()
    """Ids of the experiments that it builds on or combines; none for an edit of the head."""
    changes: Mapping[str, tuple[Constant | None, Constant | None]] = field(default_factory=dict)
    """Constants that it changes: name -> (old, new); None: there is no such constant."""
    usage: Usage = field(default_factory=Usage)
    discarded: tuple[str, ...] = ()
    """Files beside train.py that its researcher changed, which nobody uses; the last one says how many more there are."""
    deliberate: bool = False
    """Whether a person listed it, so that it is run even if it repeats an experiment."""
    submission: str = ""
    """Id of the submission that it was made of (`agent/submissions.py`); empty if a researcher was asked for it."""
    suggestion: int | None = None
    """The number of the person's suggestion that it follows (`results/steering.py`); None if it follows none."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One loop's line of research, whose scores compare with each other."""

    name: str
    """The git branch: `autoresearch/<tag>` or `autoresearch/<tag>-gpu0`."""
    tag: str
    loop: int
    """Number of the loop, from 0."""
    profile: str
    contract_json: str
    """`Contract.to_json()`."""
    score_fingerprint: str
    data_fingerprint: str
    platform: str
    """The hardware on which scores compare, as one line: `NVIDIA H100 80GB HBM3, 80 GB, 700 W`."""
    baseline_commit: str
    """The branch's first commit, whose train.py has the profile's starting hyperparameters."""
    created: str
    """ISO 8601, UTC."""
    group: str = ""
    """The branch of the head that it shares with the other branches of its group; empty: it shares none, it is its own head."""
    rule: str = ""
    """The rule by which ideas are kept; empty if an older version of the farm recorded it."""

    @property
    def head_branch(self) -> str:
        """The branch that holds the head of its group."""
        return self.group or self.name


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A proposal that has been committed."""

    id: str
    """Unique, sortable by time."""
    branch: str
    number: int
    """Number on its branch, from 0, which is the baseline."""
    kind: ExperimentKind
    commit: str
    parent_commit: str
    """The head that it was tried on."""
    title: str
    hypothesis: str
    researcher: str
    parents: tuple[str, ...] = ()
    changes: Mapping[str, tuple[Constant | None, Constant | None]] = field(default_factory=dict)
    diff: str = ""
    """Unified diff of train.py against the head."""
    program: str = ""
    """`program_of` its train.py, by which a repetition is recognised; empty if an older version of the farm recorded it."""
    structure: str = ""
    """`structure_of` its train.py: what its constants' values don't change; empty if an older version recorded it."""
    patches: tuple[str, ...] = ()
    """The ideas in its train.py, by the ids of the experiments that first tried them; of an idea its own id is the last."""
    left_out: tuple[str, ...] = ()
    """The ideas in the head that it was made from which are not in its train.py."""
    slots: tuple[str, ...] = ()
    """The constants, functions and classes that it changes."""
    price: float = 0.0
    """The gain in bpb that its lines must pay for."""
    lines_added: int = 0
    """Lines of code that it adds, as `agent/code_lines.py` counts them: without comments, and long lines more than once."""
    lines_removed: int = 0
    usage: Usage = field(default_factory=Usage)
    created: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision on an experiment, and the reason for it."""

    decision: Decision
    reason: str
    """One line in words, never empty."""
    gain: float | None = None
    """The val_bpb that is expected of the head minus the experiment's: positive is better. None without a score or a head."""
    needed: float | None = None
    """The gain that one run had to show for a keep, its price included. None if no gain was required."""
    sigma: float | None = None
    """Standard deviation of val_bpb between seeds, as estimated at the time."""
    expected_sd: float | None = None
    """Standard deviation of `gain` if nothing but the seed differs, of a score that all runs had predicted; else None."""
    effect: float | None = None
    """The estimated effect of the idea in bpb, shrunk for having been selected; None if no estimate decided."""
    low: float | None = None
    high: float | None = None
    """The ends of the effect's 90% interval, in bpb."""
    helps: float | None = None
    """The probability that the effect is above its price."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What new ideas are tried on: the train.py that all branches of a group build on."""

    commit: str
    experiment_id: str
    """The experiment that made it."""
    scores: tuple[float, ...]
    """val_bpb of every run of that commit; none if it was put together by dropping an idea and has not run yet."""
    expected: float
    """The val_bpb that it is expected to have, as estimated when it became the head."""
    patches: tuple[str, ...] = ()
    """The ideas in it, by the ids of the experiments that first tried them."""
    peak_memory_mb: float | None = None
    """Peak memory in MiB, mean over its runs."""

    @property
    def mean(self) -> float:
        """The mean val_bpb of its runs; what it is expected to have if there are none."""
        return sum(self.scores) / len(self.scores) if self.scores else self.expected


@dataclass(frozen=True, kw_only=True)
class ExperimentRecord:
    """An experiment with its runs and its verdict (None while it is running)."""

    experiment: Experiment
    runs: tuple[RunResult, ...] = ()
    verdict: Verdict | None = None

    @property
    def is_idea(self) -> bool:
        """Whether it tries something new, as an edit by a researcher or a person does."""
        return self.experiment.kind in IDEAS

    @property
    def is_done(self) -> bool:
        """Whether it counts as a finished experiment: an idea with a verdict that the infrastructure did not lose."""
        return self.is_idea and self.verdict is not None and self.verdict.decision != "lost"

    @property
    def outcome(self) -> str:
        """How lists name its end: the decision, or the kind of what tries no idea and so is never kept; empty without one."""
        if self.verdict is None:
            return ""
        return self.experiment.kind if self.is_measurement else self.verdict.decision

    @property
    def is_measurement(self) -> bool:
        """Whether it ended as a control, a confirmation or a run of a wave does, which is neither kept nor discarded."""
        ended_well = self.verdict is not None and self.verdict.decision == "discard"
        return ended_well and self.experiment.kind in MEASUREMENTS

    @property
    def is_abandoned(self) -> bool:
        """Whether it was interrupted, and a person doesn't want to finish it."""
        return self.verdict is not None and (self.verdict.decision, self.verdict.reason) == ("lost", ABANDONED)

    @property
    def val_bpb(self) -> float | None:
        """Mean val_bpb over the runs that ended well; None without one."""
        scores = [run.val_bpb for run in self.runs if run.status == "ok" and run.val_bpb is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def peak_memory_mb(self) -> float | None:
        """Largest peak memory of its runs in MiB; None if it wasn't measured."""
        peaks = [run.peak_memory_mb for run in self.runs if run.peak_memory_mb is not None]
        return max(peaks) if peaks else None

    def after(self, runs: int) -> "ExperimentRecord":
        """The record as it was after its first runs, with the verdict that it has by now."""
        return ExperimentRecord(experiment=self.experiment, runs=self.runs[:runs], verdict=self.verdict)


def edit_of(experiment: Experiment) -> str:
    """The lines that an idea removes and adds, which are the same on whatever head it is tried."""
    lines = experiment.diff.splitlines()
    return "\n".join(line for line in lines if line.startswith(("+", "-")) and not line.startswith(("+++", "---")))


def to_body(record: Branch | Experiment | RunResult | Verdict) -> dict[str, Any]:
    """The record as plain data for JSON. Nobody may change it: what the record holds is not copied."""
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {name: asdict(value) if isinstance(value, Usage) else value for name, value in values.items()}


def usage_from(body: Mapping[str, Any]) -> Usage:
    """The usage that `asdict` made plain."""
    return Usage(**_known(Usage, body))


def branch_from(body: Mapping[str, Any]) -> Branch:
    """The branch that `to_body` made plain. As in the functions below, fields that this version doesn't know are left out."""
    return Branch(**_known(Branch, body))


def experiment_from(body: Mapping[str, Any]) -> Experiment:
    """The experiment that `to_body` made plain."""
    values = _known(Experiment, body)
    values["usage"] = usage_from(values.get("usage", {}))
    for name in ("parents", "patches", "left_out", "slots"):
        values[name] = tuple(values.get(name, ()))
    changes: Mapping[str, list[Any]] = values.get("changes", {})
    values["changes"] = {name: (_constant(old), _constant(new)) for name, (old, new) in changes.items()}
    return Experiment(**values)


def run_from(body: Mapping[str, Any]) -> RunResult:
    """The run that `to_body` made plain."""
    return RunResult.from_plain(body)


def verdict_from(body: Mapping[str, Any]) -> Verdict:
    """The verdict that `to_body` made plain."""
    return Verdict(**_known(Verdict, body))


def _known(record: type[Branch | Experiment | Usage | Verdict], body: Mapping[str, Any]) -> dict[str, Any]:
    names = record.__dataclass_fields__
    return {name: value for name, value in body.items() if name in names}


def _constant(value: Any) -> Constant | None:
    """A constant read from JSON, which has lists for tuples."""
    return tuple(value) if isinstance(value, list) else value
