"""How long a farm's records take as they grow: start, rebuild, append, views, what a step of a loop reads, farm status.

    uv run python -m benchmarks.store --runs 1000 100000 1000000 --branches 1 --json store.json

Each size gets a home of its own with made-up experiments, divided among branches of one group, and a process of its own, so
that its peak memory is its own. Times are in seconds, memory in MiB; -1 in the JSON is a query that ran out of memory.
`aggregate`, `latest`, `one` and `leaders` are usual queries, the last once the estimates are computed (`estimates`). `state`
is the first replay of the group's records. What a loop's step reads is `first step` and `step`, the second with the replay
of a new run. `restart` is another start, with the state that the first one saved. `first read` decodes the whole journal, as
the first command does that looks at all of it; `status` and `report` are the commands' text after it, with the reading. CPU
time counts, so that others on the machine don't. Of a million runs what needs the group's state is left out.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.duplicate_edits import ProgramsOnSameTerms
from agent.tried_by_group import TriedByGroup
from cluster.status_text import standing_lines
from research.errors import UserError
from research.profiles import PROFILES
from research.result import RunResult
from results import policy
from results.drawing import draw_here
from results.expected_gain import expected_gain
from results.experiment import Branch, Experiment, Usage, Verdict, to_body
from results.group_entries import GAIN
from results.group_state import estimates_of, in_order
from results.group_verdicts import flips
from results.head_gain import gain_event
from results.history import read_history
from results.journal import JournalRecord, RecordKind, encoded
from results.journal_index import CHECKSUM_FIELD_LENGTH, checksum_field
from results.plot import picture_of
from results.report import morning_report
from results.store import Store
from results.tsv import write_results_tsv

APPENDS = 50
"""Records over which the time of an append is averaged."""

LOG_TAIL = "step 00001 | loss 9.0 | 1 s\n" * 30
"""About what a run's log leaves in its record."""

GROUP = "autoresearch/bench"

MARK = 987_654_321
"""Stands for an experiment's number in a line that is copied."""

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When the made-up history begins."""

Timed = Callable[..., None]
"""Takes a name, what is measured, and how often it runs."""

OUT_OF_MEMORY = -1.0
"""Stands for the time of a query that needs more memory than queries may use."""

MOST_EXPORTED = 10_000
"""Experiments of a history up to which the files for people are measured: they take all of it, beside the loops."""

MOST_REPLAYED = 100_000
"""Experiments of a history up to which what needs the group's state is measured: a longer replay takes many minutes."""


def main() -> None:
    """Measures the sizes that the command line names, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--branches", type=int, default=20, metavar="N", help="branches of the group (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    for runs in options.runs:
        with tempfile.TemporaryDirectory(prefix="store-benchmark-") as folder:
            found[runs] = measured(runs, options.branches, Path(folder))
        print(f"{runs:,} runs")
        print("\n".join(f"  {name:<12}{in_words(value):>14}" for name, value in found[runs].items()), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def in_words(figure: float) -> str:
    """A figure as it is printed."""
    return "out of memory" if figure == OUT_OF_MEMORY else f"{figure:,.4f}"


def measured(runs: int, branches: int, folder: Path) -> dict[str, float]:
    """The figures of a home with so many runs, from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (runs, branches, folder))


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """The CPU seconds that some work takes; OUT_OF_MEMORY for a query that needs more than queries may use."""
    began = time.process_time()
    try:
        for _ in range(times):
            work()
    except UserError as problem:
        if "Out of Memory" not in str(problem):
            raise
        return OUT_OF_MEMORY
    return (time.process_time() - began) / times


def measure(runs: int, branches: int, folder: Path) -> dict[str, float]:
    """Fills a home and measures it in this process."""
    journal = folder / "journal.jsonl"
    with journal.open("wb") as file:
        file.writelines(journal_lines(runs, branches))
    figures: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object], times: int = 1) -> None:
        figures[name] = seconds_of(work, times)

    timed("rebuild", lambda: Store.open(folder).close())
    figures["records/s"] = records_in(runs, branches) / figures["rebuild"]
    timed("start", lambda: Store.open(folder).close())
    has_state = runs <= MOST_REPLAYED
    with Store.open(folder) as store:
        numbers = iter(range(10**6))

        def append() -> None:
            store.add_event("benchmark", {"branch": branch_named(0).name, "number": next(numbers)})

        timed("append", append, APPENDS)
        timed("aggregate", lambda: store.query("SELECT count(*), min(val_bpb) FROM history", timeout_s=600), 3)
        timed("latest", lambda: store.query("SELECT * FROM history ORDER BY created DESC LIMIT 20", timeout_s=600), 3)
        timed("one", lambda: store.query("SELECT * FROM history WHERE id = 'bench-0-000123'", timeout_s=600), 3)
        if has_state:
            measure_state(store, timed, numbers)
        if runs <= MOST_EXPORTED:
            measure_files(store, folder, timed)
    if has_state:
        timed("restart", lambda: start_with_state(folder))
    timed("first read", lambda: read_history(journal))
    timed("status", lambda: standing_lines(read_history(journal)))
    timed(
        "report",
        lambda: morning_report(read_history(journal), home=folder, ask="sql", confirm="confirm") if has_state else None,
    )
    figures["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def measure_state(store: Store, timed: Timed, numbers: Iterator[int]) -> None:
    """What needs the group's state: a replay, steps of a loop, and queries of estimates."""
    timed("state", lambda: store.groups.state(GROUP))
    branch = branch_named(0).name
    tried = TriedByGroup(store, GROUP)
    timed("first step", lambda: read_as_a_step(store, tried, branch))

    def step() -> None:
        store.add_run("bench-0-000001", run_of("again", next(numbers)))
        read_as_a_step(store, tried, branch)

    timed("step", step, 20)
    leaders = "SELECT rank, title, val_bpb, effect, helps FROM leaderboard LIMIT 10"
    timed("estimates", lambda: store.query(leaders, timeout_s=600))
    timed("leaders", lambda: store.query(leaders, timeout_s=600), 3)
    state, head = store.groups.state(GROUP), store.groups.head(GROUP)
    found = None if head is None else expected_gain(state, head.commit)
    if head is not None and found is not None:  # as a loop does after each run
        store.add_event(GAIN, gain_event(GROUP, head.commit, state.records, found))


def measure_files(store: Store, folder: Path, timed: Timed) -> None:
    """The files that are only for people."""
    timed("parquet", store.export_parquet)
    records = store.records(branch_named(0).name)
    timed("tsv", lambda: write_results_tsv(folder / "results.tsv", records))
    timed("picture", lambda: draw_here([(folder / "progress.png", picture_of(records, branch_named(0).name))]))


def records_in(runs: int, branches: int) -> int:
    """How many records the journal begins with."""
    return branches + 3 * runs


def start_with_state(folder: Path) -> None:
    """Opens a home and asks for its group's state, as a farm does that resumes."""
    with Store.open(folder) as store:
        store.groups.state(GROUP)


def read_as_a_step(store: Store, tried: TriedByGroup, branch: str) -> None:
    """What a loop's step reads: its group's state and head, its baseline, its latest records, what others tried, decisions."""
    state, head, experiments = store.groups.state(GROUP), store.head(branch), store.experiments
    store.baseline(branch)
    experiments.with_ids(policy.near_misses(state.farm))
    list(reversed(experiments.of_branch(branch)[-32:]))
    known, programs = tried.known_beside(branch), ProgramsOnSameTerms(store, branch_named(0))
    estimates_of(state, in_order(state, state.farm.patches))
    for idea in state.farm.patches:
        known.with_parent(idea)
    programs.get("no program")
    if head is not None:
        tried.crash_patterns(head.commit)
        expected_gain(state, head.commit)
    for idea, verdict in flips(state, tried.decisions_in_question(state)):
        store.add_verdict(idea, verdict)
    for _ in range(3):
        store.next_number(branch)


def journal_lines(runs: int, branches: int) -> Iterator[bytes]:
    """The lines of a journal of experiments with a run and a verdict each: a million experiments in a minute.

    All but the first line of a kind on a branch are copies with another number.
    """
    for loop in range(branches):
        branch = branch_named(loop)
        yield encoded(JournalRecord(id=f"branch:{branch.name}", kind="branch", time=branch.created, body=to_body(branch)))
    templates = [[_without_checksum(record) for record in records_of(loop, MARK, MARK)] for loop in range(branches)]
    created, score = experiment_of(0, MARK).created.encode(), b'"val_bpb": %s' % repr(score_of(MARK)).encode()
    for at in range(runs):
        loop, number = at % branches, at // branches
        if number == 0:
            yield from map(encoded, records_of(loop, number, at))
            continue
        then, own = experiment_time(number).encode(), b'"val_bpb": %s' % repr(score_of(at)).encode()
        padded, hexadecimal = b"-%06d" % number, b"%08x" % number
        for template in templates[loop]:
            text = template.replace(b"-%d-%d" % (MARK, MARK), padded + b"-%d" % at).replace(b"-%d" % MARK, padded)
            text = text.replace(b"%08x" % MARK, hexadecimal).replace(b'"seed": %d' % MARK, b'"seed": %d' % at)
            text = text.replace(b" %d" % MARK, b" %d" % number).replace(score, own).replace(created, then)
            yield text[:-1] + checksum_field(text) + b"\n"


def records_of(loop: int, number: int, at: int) -> list[JournalRecord]:
    """The records of one experiment, which is the one at this place among all."""
    experiment = experiment_of(loop, number)
    run, verdict = run_of(experiment.id, at), Verdict(decision="discard" if number else "keep", reason="made up")
    of = {"experiment_id": experiment.id}
    bodies: list[tuple[RecordKind, str, dict[str, Any]]] = [
        ("experiment", experiment.id, to_body(experiment)),
        ("run", run.run_id, {**of, **to_body(run)}),
        ("verdict", f"{experiment.id}/1", {**of, "runs": 1, **to_body(verdict)}),
    ]
    return [JournalRecord(id=f"{kind}:{key}", kind=kind, time=experiment.created, body=body) for kind, key, body in bodies]


def _without_checksum(record: JournalRecord) -> bytes:
    return encoded(record)[: -CHECKSUM_FIELD_LENGTH - 1] + b"}"


def branch_named(loop: int) -> Branch:
    """A branch of the group."""
    contract = PROFILES["standard"].contract
    return Branch(name=f"{GROUP}-gpu{loop}", tag="bench", loop=loop, profile="standard", contract_json=contract.to_json(),
                  score_fingerprint="s", data_fingerprint="d", platform="a GPU", baseline_commit="0" * 40,
                  created="2026-01-01T00:00:00Z", group=GROUP)  # fmt: skip


def experiment_of(loop: int, number: int) -> Experiment:
    """A made-up idea; number 0 is the baseline."""
    return Experiment(
        id=f"bench-{loop}-{number:06d}", branch=branch_named(loop).name, number=number,
        kind="explore" if number else "baseline", commit=f"{loop:04x}{number:08x}".ljust(40, "c"), parent_commit="0" * 40,
        title=f"idea {number}", hypothesis="it should learn faster", researcher="search",
        changes={"DEPTH": (8, 9)} if number else {}, diff=f"-DEPTH = 8\n+DEPTH = 9  # {loop} {number}\n" * 10, lines_added=1,
        lines_removed=1, usage=Usage(), created=experiment_time(number),
    )  # fmt: skip


def experiment_time(number: int) -> str:
    """When an experiment was made, as if each took a minute."""
    return (START + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ")


def score_of(at: int) -> float:
    """A made-up val_bpb."""
    return 0.9 + at % 97 / 1e4


def run_of(experiment: str, at: int) -> RunResult:
    """A made-up result."""
    return RunResult(run_id=f"{experiment}-{at}", status="ok", reason="", seed=at, device="cuda:0", val_bpb=score_of(at),
                     training_seconds=300.0, total_seconds=340.0, startup_seconds=20.0, answer_seconds=8.0,
                     peak_memory_mb=45_000.0, log_tail=LOG_TAIL,
                     reported_curve=tuple((float(x), x, 9.0) for x in range(60)))  # fmt: skip


if __name__ == "__main__":
    main()
