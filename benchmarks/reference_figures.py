"""The figures of runs, ours and a reference's: a table of them, what they come to, and a file that grows with each run.

A file is gone on with by the next call, and read by others: all in one have the same head.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from research.errors import UserError
from research.files import write_atomically

UNTOUCHED, NIGHT, OURS = "reference", "reference, its night's changes", "ours"
VARIANTS = (UNTOUCHED, NIGHT, OURS)
"""In the order in which they run."""

UNTIMED_STEPS = 12
"""Steps at the start that no speed is taken from: they compile."""

Summary = dict[str, dict[str, float | int]]
"""Mean, least, most and deviation of what has a name."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Under what all runs of a comparison were made: they compare only where it is equal."""

    platform: str
    profile: str
    budget: float
    """Seconds of training."""
    mode: str
    attention: str
    """The kernel that the reference's runs were told to use."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run, ours or the reference's. None is what was not measured."""

    variant: str
    seed: int
    status: str
    reason: str = ""
    """Of a run without a score: why, or the tail of its log."""
    own_bpb: float | None = None
    """Validation bits per byte by the run's own evaluator: the reference's, or our judge."""
    reference_bpb: float | None = None
    """The same by the reference's evaluator."""
    tokens_per_second: float | None = None
    """Mean over the training time: of the reference without its first UNTIMED_STEPS, of ours from the first to the last."""
    median_tokens_per_second: float | None = None
    """Over steps, or over the points of our loss curve; the first UNTIMED_STEPS are left out."""
    mfu_percent: float | None = None
    steps: int | None = None
    tokens: int | None = None
    num_params: int | None = None
    allocated_mb: float | None = None
    """Peak of the tensors' memory on the device, MiB, by torch."""
    device_mb: float | None = None
    """Peak of all memory on the device, MiB, seen from outside."""
    training_seconds: float | None = None
    outside_seconds: float | None = None
    """Of the wall clock, from the start of the run to its end, less its training."""
    startup_seconds: float | None = None
    scoring_seconds: float | None = None
    kernel: str | None = None
    """Of attention, as our train.py reported it."""

    @property
    def whole(self) -> bool:
        """Whether all went well: after a run that did, the reference's evaluator may have failed."""
        return self.status == "ok" and not self.reason


HEADING = (
    f"{'seed':>4} {'bpb (ref)':>10} {'bpb (own)':>10} {'tok/s':>11} {'median':>11} {'MFU %':>6} {'steps':>6} {'M tok':>7} "
    f"{'MiB':>7} {'train s':>8} {'outside':>8}  run"
)


def line(run: Figures) -> str:
    """A run as a line of the table, with the words of one that failed below."""

    def cell(value: float | None, form: str, width: int) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    cells = [
        cell(run.seed, "d", 4),
        cell(run.reference_bpb, ".6f", 10),
        cell(run.own_bpb, ".6f", 10),
        cell(run.tokens_per_second, ",.0f", 11),
        cell(run.median_tokens_per_second, ",.0f", 11),
        cell(run.mfu_percent, ".2f", 6),
        cell(run.steps, "d", 6),
        cell(None if run.tokens is None else run.tokens / 1e6, ".2f", 7),
        cell(run.allocated_mb, ".0f", 7),
        cell(run.training_seconds, ".1f", 8),
        cell(run.outside_seconds, ".1f", 8),
    ]
    words = f"\n{run.status}: {run.reason}" if run.reason else ""
    return f"{' '.join(cells)}  {run.variant}{words}"


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Mean, least, most and standard deviation (of several) of some values."""
    found: dict[str, float | int] = {
        "count": len(values),
        "mean": statistics.fmean(values),
        "least": min(values),
        "most": max(values),
    }
    return found | ({"deviation": statistics.stdev(values)} if len(values) > 1 else {})


def speed_summary(runs: Sequence[Figures]) -> Summary:
    """Ours by the reference's, pair by pair: ratios of the figures that both sides have."""
    good = {(run.variant, run.seed): asdict(run) for run in runs if run.status == "ok"}
    seeds = [seed for variant, seed in good if variant == OURS and (UNTOUCHED, seed) in good]
    found = {}
    for name in ("tokens_per_second", "median_tokens_per_second", "mfu_percent", "allocated_mb", "outside_seconds"):
        pairs = [(good[OURS, seed][name], good[UNTOUCHED, seed][name]) for seed in seeds]
        ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
        if ratios:
            found[name] = spread(ratios)
    return found


def score_summary(runs: Sequence[Figures]) -> Summary:
    """The scores of each recipe over seeds, and the differences between them seed by seed, by the reference's evaluator."""
    scores: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.reference_bpb is not None:
            scores.setdefault(run.variant, {})[run.seed] = run.reference_bpb
    found = {variant: spread(list(values.values())) for variant, values in scores.items()}
    for one, other in ((NIGHT, UNTOUCHED), (OURS, UNTOUCHED), (OURS, NIGHT)):
        common = scores.get(one, {}).keys() & scores.get(other, {}).keys()
        if common:
            found[f"{one} - {other}"] = spread([scores[one][seed] - scores[other][seed] for seed in sorted(common)])
    own = [run.own_bpb - run.reference_bpb for run in runs if run.variant == OURS and run.own_bpb and run.reference_bpb]
    return found | ({"our judge - the reference's evaluator": spread(own)} if own else {})


def summary_text(mode: str, summary: Summary) -> str:
    """A line for each of its entries."""
    digits = 3 if mode == "speed" else 5
    lines = ["\nours / reference" if mode == "speed" else "\nbits per byte by the reference's evaluator"]
    for name, values in summary.items():
        deviation = f", deviation {values['deviation']:.{digits}f}" if "deviation" in values else ""
        lines.append(
            f"{values['mean']:>+10.{digits}f}  {name} ({values['count']} of them: {values['least']:.{digits}f} to "
            f"{values['most']:.{digits}f}{deviation})"
        )
    return "\n".join(lines)


def read_runs(path: Path, head: Head) -> list[Figures]:
    """The runs in a file of a Record's. Raises UserError where it can't be read, or was made under another head."""
    try:
        values = json.loads(path.read_text())
        runs = [Figures(**run) for run in values["runs"]]
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): name a file that --json of this benchmark wrote.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} has no runs of this benchmark: name another file.") from None
    differences = [
        f"{name} {values.get(name)!r} there, {here!r} here" for name, here in asdict(head).items() if values.get(name) != here
    ]
    if differences:
        raise UserError(
            f"{path} holds runs that don't compare with these ({'; '.join(differences)}): name another file, or make the runs"
            " under the same terms."
        )
    return runs


class Record:
    """All runs so far, those of earlier calls and of added files among them; printed and written down as they come, so that
    what is cut off has left those before.
    """

    def __init__(self, head: Head, path: Path | None = None, *, added: Sequence[Path] = ()) -> None:
        """Goes on with the file `path` where there is one; `added` are only read. Raises UserError (see `read_runs`)."""
        self._head, self._path, self._added_paths = head, path, added
        self._own = read_runs(path, head) if path is not None and path.exists() else []
        self._added = [run for file in added for run in read_runs(file, head)]

    @property
    def runs(self) -> list[Figures]:
        """One of each variant and seed, seed by seed: a whole one before one that failed, an own one before an added one."""
        best = {(run.seed, run.variant): run for run in sorted([*self._added, *self._own], key=lambda run: run.whole)}
        return sorted(best.values(), key=lambda run: (run.seed, VARIANTS.index(run.variant)))

    def lacks(self, variant: str, seed: int) -> bool:
        """Whether that run is still to be made, for the first time or once more."""
        return not any(run.whole for run in self.runs if (run.variant, run.seed) == (variant, seed))

    def begin(self) -> None:
        """Prints what was read, and writes it down."""
        for run in self.runs:
            print(line(run), flush=True)
        self._write()

    def add(self, run: Figures) -> None:
        """Takes a run that has ended, in the place of one that failed before."""
        self._own = [other for other in self._own if (other.variant, other.seed) != (run.variant, run.seed)] + [run]
        print(line(run), flush=True)
        self._write()

    def summary(self) -> Summary:
        return speed_summary(self.runs) if self._head.mode == "speed" else score_summary(self.runs)

    def summary_text(self) -> str:
        return summary_text(self._head.mode, self.summary())

    def _write(self) -> None:
        """The own runs alone, so that files can be added to each other; the summary is over all."""
        if self._path is not None:
            runs, added = [asdict(run) for run in self._own], [str(path) for path in self._added_paths]
            values = {**asdict(self._head), "runs": runs, "added": added, "summary": self.summary()}
            write_atomically(self._path, json.dumps(values, indent=1) + "\n")
