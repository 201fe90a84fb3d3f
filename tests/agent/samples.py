"""Small records and contexts that the tests of researchers share."""

from agent.researcher import Context
from research.profiles import PROFILES
from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentRecord, Head, Usage, Verdict

TRAIN_PY = '''"""A small train.py."""

DEPTH = 2          # layers
EMBEDDING_LR = 0.6
WINDOW_PATTERN = "L"


def build_model():
    return None


def train(session):
    session.finish(build_model())
'''


def make_record(
    number: int,
    *,
    decision: str | None = "discard",
    val_bpb: float | None = 1.5,
    gain: float | None = -0.01,
    title: str = "an idea",
    reason: str = "worse than the head",
    researcher: str = "scripted",
    cost_usd: float | None = None,
) -> ExperimentRecord:
    """An experiment with one run, or still training where `decision` is None."""
    experiment = Experiment(
        id=f"e{number:04d}",
        branch="autoresearch/test",
        number=number,
        kind="explore" if number else "baseline",
        commit=f"{number:040x}",
        parent_commit="0" * 40,
        title=title,
        hypothesis="it should help",
        researcher=researcher,
        usage=Usage(cost_usd=cost_usd),
        created="2026-01-01T00:00:00Z",
    )
    if decision is None:
        return ExperimentRecord(experiment=experiment)
    status = "ok" if val_bpb is not None else "crash"
    run = RunResult(
        run_id=f"r{number}", status=status, reason=reason, seed=1, device="cpu", val_bpb=val_bpb, peak_memory_mb=2048.0
    )
    verdict = Verdict(decision=decision, reason=reason, gain=gain, needed=0.01, sigma=0.01)  # type: ignore[arg-type]
    return ExperimentRecord(experiment=experiment, runs=(run,), verdict=verdict)


def make_context(records: tuple[ExperimentRecord, ...] = (), train_py: str = TRAIN_PY, **changes: object) -> Context:
    """A context with these records."""
    branch = Branch(
        name="autoresearch/test",
        tag="test",
        loop=0,
        profile="cpu",
        contract_json=PROFILES["cpu"].contract.to_json(),
        score_fingerprint="s",
        data_fingerprint="d",
        platform="a CPU",
        baseline_commit="0" * 40,
        created="2026-01-01T00:00:00Z",
    )
    fields: dict[str, object] = {
        "branch": branch,
        "head": Head(commit="0" * 40, experiment_id="e0000", scores=(1.5,), expected=1.5, peak_memory_mb=2048.0),
        "train_py": train_py,
        "records": records,
        "sigma": 0.01,
        "program": "Lower val_bpb.",
        "query": lambda sql: f"asked: {sql}",
        "charge": lambda usage: None,
        "spent_usd": lambda: 0.0,
    }
    return Context(**{**fields, **changes})  # type: ignore[arg-type]
