"""The figures of our runs and of a reference's: a table, a summary, and a JSON file that is written after each run.

A later call resumes from such a file, and other calls can read it. All runs of a file share a Head.
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
"""The variants, in the order in which they run."""

UNTIMED_STEPS = 12
"""Steps at the start that are left out of speeds, as they include compilation."""

Summary = dict[str, dict[str, float | int]]
"""Count, mean, minimum, maximum and standard deviation of each named quantity (see `spread`)."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The conditions of a comparison. Only runs with equal conditions are comparable."""

    platform: str
    profile: str
    budget: float
    """Seconds of training per run."""
    mode: str
    attention: str
    """The attention kernel of the reference's runs."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of one run, ours or the reference's. None: not measured."""

    variant: str
    seed: int
    status: str
    reason: str = ""
    """Why a run has no score, or the tail of its log. Empty if all went well."""
    own_bpb: float | None = None
    """Validation bits per byte, scored by the run's own evaluator: the reference's, or our judge."""
    reference_bpb: float | None = None
    """Validation bits per byte, scored by the reference's evaluator."""
    tokens_per_second: float | None = None
    """Mean over the training time. The reference's excludes the first UNTIMED_STEPS; ours includes all steps."""
    median_tokens_per_second: float | None = None
    """Median over the reference's steps, or over the points of our loss curve, without the first UNTIMED_STEPS."""
    mfu_percent: float | None = None
    steps: int | None = None
    tokens: int | None = None
    num_params: int | None = None
    allocated_mb: float | None = None
    """Peak memory of tensors on the device in MiB, as reported by torch."""
    device_mb: float | None = None
    """Peak memory of all processes of the run on the device in MiB, as measured by the judge."""
    training_seconds: float | None = None
    outside_seconds: float | None = None
    """Overhead: wall-clock time of the whole run minus training time."""
    startup_seconds: float | None = None
    scoring_seconds: float | None = None
    kernel: str | None = None
    """The attention kernel, as reported by our train.py."""

    @property
    def succeeded(self) -> bool:
        """Whether the run succeeded and was scored. The reference's evaluator can fail after a run with status ok."""
        return self.status == "ok" and not self.reason


HEADING = (
    f"{'seed':>4} {'bpb (ref)':>10} {'bpb (own)':>10} {'tok/s':>11} {'median':>11} {'MFU %':>6} {'steps':>6} {'M tok':>7} "
    f"{'MiB':>7} {'train s':>8} {'outside':>8}  run"
)


def line(run: Figures) -> str:
    """A run as a line of the table; the reason of a failed run follows on the next lines."""

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
    reason = f"\n{run.status}: {run.reason}" if run.reason else ""
    return f"{' '.join(cells)}  {run.variant}{reason}"


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Count, mean, minimum, maximum and, for several values, standard deviation."""
    found: dict[str, float | int] = {
        "count": len(values),
        "mean": statistics.fmean(values),
        "least": min(values),
        "most": max(values),
    }
    return found | ({"deviation": statistics.stdev(values)} if len(values) > 1 else {})


def speed_summary(runs: Sequence[Figures]) -> Summary:
    """Ratios of our figures to the reference's per pair of runs, for the figures that both sides have."""
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
    """Scores of each recipe over seeds, and their differences per seed, by the reference's evaluator."""
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
    """The summary as text, with one line per entry."""
    digits = 3 if mode == "speed" else 5
    lines = ["\nours / reference" if mode == "speed" else "\nbits per byte by the reference's evaluator"]
    for name, values in summary.items():
        deviation = f", deviation {values['deviation']:.{digits}f}" if "deviation" in values else ""
        lines.append(
            f"{values['mean']:>+10.{digits}f}  {name} (n = {values['count']}, {values['least']:.{digits}f} to "
            f"{values['most']:.{digits}f}{deviation})"
        )
    return "\n".join(lines)


def read_runs(path: Path, head: Head) -> list[Figures]:
    """The runs in a file that a Record wrote. Raises UserError if it can't be read, or has another head."""
    try:
        values = json.loads(path.read_text())
        runs = [Figures(**run) for run in values["runs"]]
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): name a file that --json of this benchmark wrote.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} has no runs of this benchmark: name a file that --json of this benchmark wrote.") from None
    differences = [
        f"{name} {values.get(name)!r} there, {here!r} here" for name, here in asdict(head).items() if values.get(name) != here
    ]
    if differences:
        raise UserError(
            f"{path} holds runs under other conditions ({'; '.join(differences)}): name another file, or run this benchmark"
            " under the same conditions."
        )
    return runs


class Record:
    """All runs so far, including those of earlier calls and of added files.

    Each run is printed and written to the file as soon as it ends, so that an interrupted benchmark loses only the current run.
    """

    def __init__(self, head: Head, path: Path | None = None, *, added: Sequence[Path] = ()) -> None:
        """Resumes from the file `path` if it exists; files in `added` are only read. Raises UserError (see `read_runs`)."""
        self._head, self._path, self._added_paths = head, path, added
        self._own = read_runs(path, head) if path is not None and path.exists() else []
        self._added = [run for file in added for run in read_runs(file, head)]

    @property
    def runs(self) -> list[Figures]:
        """One run per variant and seed, ordered by seed: preferably a successful one, and preferably an own one."""
        best = {(run.seed, run.variant): run for run in sorted([*self._added, *self._own], key=lambda run: run.succeeded)}
        return sorted(best.values(), key=lambda run: (run.seed, VARIANTS.index(run.variant)))

    def lacks(self, variant: str, seed: int) -> bool:
        """Whether this run has not been made yet, or has to be repeated because it failed."""
        return not any(run.succeeded for run in self.runs if (run.variant, run.seed) == (variant, seed))

    def begin(self) -> None:
        """Prints the runs that were read, and writes the file."""
        for run in self.runs:
            print(line(run), flush=True)
        self._write()

    def add(self, run: Figures) -> None:
        """Adds a run that has ended; it replaces an earlier run of the same variant and seed."""
        self._own = [other for other in self._own if (other.variant, other.seed) != (run.variant, run.seed)] + [run]
        print(line(run), flush=True)
        self._write()

    def summary(self) -> Summary:
        return speed_summary(self.runs) if self._head.mode == "speed" else score_summary(self.runs)

    def summary_text(self) -> str:
        return summary_text(self._head.mode, self.summary())

    def _write(self) -> None:
        """Writes only the own runs, so that files can be added to each other; the summary covers all runs."""
        if self._path is not None:
            runs, added = [asdict(run) for run in self._own], [str(path) for path in self._added_paths]
            values = {**asdict(self._head), "runs": runs, "added": added, "summary": self.summary()}
            write_atomically(self._path, json.dumps(values, indent=1) + "\n")
