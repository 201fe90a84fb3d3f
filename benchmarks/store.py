"""How long a farm's records take as they grow: start, rebuild, append, views, what a step of a loop reads, farm status.

    uv run python -m benchmarks.store --runs 1000 10000 100000 --branches 1 --json store.json

Each size gets a home of its own with made-up experiments, divided among branches of one group, and a process of its own, so
that its peak memory is its own. Times are in seconds, memory in MiB. `state` is the first replay of the group's records;
`first step` and `step` are what a loop's step reads, the second with the replay of a new run; `leaders` and `latest` are usual
queries, once the estimates are computed (`estimates`). `restart` is another start, with the group's state: saved by the first.
`status` and `report` are the commands' text, with the reading of the journal. CPU time counts, so that others on the machine
don't.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.duplicate_edits import ProgramsOnSameTerms
from agent.tried_by_group import TriedByGroup
from cluster.status_text import standing_lines
from research.profiles import PROFILES
from research.result import RunResult
from results import policy
from results.drawing import draw_here
from results.experiment import Branch, Experiment, Usage, Verdict, to_body
from results.gains import expected_gain
from results.group_state import estimates_of, in_order
from results.group_verdicts import flips
from results.history import read_history
from results.journal import JournalRecord, encoded
from results.plot import picture_of
from results.report import morning_report
from results.store import Store
from results.tsv import write_results_tsv

APPENDS = 50
"""Records over which the time of an append is averaged."""

LOG_TAIL = "step 00001 | loss 9.0 | 1 s\n" * 30
"""About what a run's log leaves in its record."""

GROUP = "autoresearch/bench"


def main() -> None:
    """Measures the sizes that the command line names, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 10_000, 100_000], metavar="N")
    parser.add_argument("--branches", type=int, default=20, metavar="N", help="branches of the group (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    for runs in options.runs:
        with tempfile.TemporaryDirectory(prefix="store-benchmark-") as folder:
            found[runs] = measured(runs, options.branches, Path(folder))
        if runs == options.runs[0]:
            print("  ".join(f"{name:>10}" for name in ("runs", *found[runs])))
        print("  ".join(f"{value:>10,.3f}" if name else f"{value:>10,}" for name, value in (("", runs), *found[runs].items())))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(runs: int, branches: int, folder: Path) -> dict[str, float]:
    """The figures of a home with so many runs, from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (runs, branches, folder))


def measure(runs: int, branches: int, folder: Path) -> dict[str, float]:
    """Fills a home and measures it in this process."""
    with (folder / "journal.jsonl").open("wb") as journal:
        journal.writelines(encoded(record) for record in history(runs, branches))
    figures: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object], times: int = 1) -> None:
        began = time.process_time()
        for _ in range(times):
            work()
        figures[name] = (time.process_time() - began) / times

    timed("rebuild", lambda: Store.open(folder).close())
    timed("start", lambda: Store.open(folder).close())
    with Store.open(folder) as store:
        numbers = iter(range(10**6))
        branch = branch_named(0).name

        def append() -> None:
            store.add_event("benchmark", {"branch": branch, "number": next(numbers)})

        timed("append", append, APPENDS)
        timed("parquet", store.export_parquet)
        timed("sql", lambda: store.query("SELECT count(*), min(val_bpb) FROM history", timeout_s=600))
        timed("state", lambda: store.groups.state(GROUP))
        tried = TriedByGroup(store, GROUP)
        timed("first step", lambda: read_as_a_step(store, tried, branch))

        def step() -> None:
            store.add_run("bench-0-000001", run_of("again", next(numbers)))
            read_as_a_step(store, tried, branch)

        timed("step", step, 20)
        leaders = "SELECT rank, title, val_bpb, effect, helps FROM leaderboard LIMIT 10"
        timed("estimates", lambda: store.query(leaders, timeout_s=600))
        timed("leaders", lambda: store.query(leaders, timeout_s=600), 3)
        timed("latest", lambda: store.query("SELECT * FROM history ORDER BY created DESC LIMIT 20", timeout_s=600), 3)
        records = store.records(branch)
        timed("tsv", lambda: write_results_tsv(folder / "results.tsv", records))
        timed("picture", lambda: draw_here([(folder / "progress.png", picture_of(records, branch))]))
    timed("restart", lambda: start_with_state(folder))
    timed("status", lambda: standing_lines(read_history(folder / "journal.jsonl")))
    timed("report", lambda: morning_report(read_history(folder / "journal.jsonl"), home=folder, ask="sql", confirm="confirm"))
    figures["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


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


def history(runs: int, branches: int) -> Iterator[JournalRecord]:
    """The journal of experiments with a run and a verdict each."""
    for loop in range(branches):
        branch = branch_named(loop)
        yield JournalRecord(id=f"branch:{branch.name}", kind="branch", time=branch.created, body=to_body(branch))
    for at in range(runs):
        loop, number = at % branches, at // branches
        experiment = experiment_of(loop, number)
        run, verdict = run_of(experiment.id, at), Verdict(decision="discard" if number else "keep", reason="made up")
        of = {"experiment_id": experiment.id}
        for kind, key, body in (
            ("experiment", experiment.id, to_body(experiment)),
            ("run", run.run_id, {**of, **to_body(run)}),
            ("verdict", f"{experiment.id}/1", {**of, "runs": 1, **to_body(verdict)}),
        ):
            yield JournalRecord(id=f"{kind}:{key}", kind=kind, time=experiment.created, body=body)  # type: ignore[arg-type]


def branch_named(loop: int) -> Branch:
    """A branch of the group."""
    contract = PROFILES["standard"].contract
    return Branch(name=f"{GROUP}-gpu{loop}", tag="bench", loop=loop, profile="standard", contract_json=contract.to_json(),
                  score_fingerprint="s", data_fingerprint="d", platform="a GPU", baseline_commit="0" * 40,
                  created="2026-01-01T00:00:00Z", group=GROUP)  # fmt: skip


def experiment_of(loop: int, number: int) -> Experiment:
    """A made-up idea; number 0 is the baseline."""
    minutes = f"{number // 60 % 24:02d}:{number % 60:02d}"
    return Experiment(
        id=f"bench-{loop}-{number:06d}", branch=branch_named(loop).name, number=number,
        kind="explore" if number else "baseline", commit=f"{loop:04x}{number:08x}".ljust(40, "c"), parent_commit="0" * 40,
        title=f"idea {number}", hypothesis="it should learn faster", researcher="search",
        changes={"DEPTH": (8, 9)} if number else {}, diff=f"-DEPTH = 8\n+DEPTH = 9  # {loop} {number}\n" * 10, lines_added=1,
        lines_removed=1, usage=Usage(), created=f"2026-01-01T{minutes}:00Z",
    )  # fmt: skip


def run_of(experiment: str, at: int) -> RunResult:
    """A made-up result."""
    return RunResult(run_id=f"{experiment}-{at}", status="ok", reason="", seed=at, device="cuda:0", val_bpb=0.9 + at % 97 / 1e4,
                     training_seconds=300.0, total_seconds=340.0, startup_seconds=20.0, answer_seconds=8.0,
                     peak_memory_mb=45_000.0, log_tail=LOG_TAIL,
                     reported_curve=tuple((float(x), x, 9.0) for x in range(60)))  # fmt: skip


if __name__ == "__main__":
    main()
