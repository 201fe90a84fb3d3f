"""`farm transfer`: which runs it makes, what it records of them, and what it refuses."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.engine import LocalEngine
from cluster.home import Home
from cluster.transfer import Side, TransferFailed, TransferPlan, TransferRuns, at_depth, held, original_gain, seeds
from research.data.prepare import prepare
from research.data.prepared import PreparedData
from research.device_batch import fitted_device_batch
from research.errors import UserError
from research.profiles import contract_for
from research.result import RunResult, RunSpec
from results.store import Store
from tests.cluster.farm_samples import CPU, gpu, make_history, write_text
from tests.cluster.tiny_checkout import Checkout

BRANCH = "autoresearch/mar8"
BASELINE, HEAD = "DEPTH = 2\nLR = 1\n", "DEPTH = 2\nLR = 2\n"


@dataclass
class Played:
    """An engine that gives a run of the head, which is a quarter faster, a score that falls with its steps."""

    fails: int | None = None
    """The number of the run that is lost."""
    specs: list[tuple[str, RunSpec]] = field(default_factory=list)

    async def execute(
        self, device: Any, train_py: str, spec: RunSpec, on_progress: Callable[[dict[str, Any]], None]
    ) -> RunResult:
        self.specs.append((train_py, spec))
        on_progress({"phase": "training", "fraction": 0.5, "loss": 3.0})
        if len(self.specs) == self.fails:
            return RunResult.lost(spec, "the node went away", device="cpu")
        is_head = "LR = 2" in train_py
        steps = round(spec.contract.TIME_BUDGET * (1.25 if is_head else 1.0) * 10)
        bpb = 2.0 - 0.001 * steps - (0.1 if is_head else 0.0) + spec.seed % 7 / 1000
        digest = hashlib.sha256(train_py.encode()).hexdigest()
        return RunResult(run_id=spec.run_id, status="ok", reason="", seed=spec.seed, device="cpu", val_bpb=bpb, audit_bpb=bpb,
                         audit_rows=8, reported_steps=steps, train_sha256=digest)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("data")
    contract = replace(contract_for("cpu", source=f"files:{write_text(folder / 'text')}"), EVAL_TOKENS=256 * 8)
    return prepare(contract, cache=folder / "cache", say=lambda line: None)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    make_history(tmp_path / "home")
    return Home(tmp_path / "home")


def plan_of(store: Store, data: PreparedData, **changes: Any) -> TransferPlan:
    branch = store.branch(BRANCH)
    assert branch is not None
    sides = {name: Side(name=name, commit="c" * 40, train_py=text) for name, text in (("baseline", BASELINE), ("head", HEAD))}  # type: ignore[arg-type]
    values = {"branch": branch, **sides, "depth": 4, "contract": contract_for("cpu", budget=20.0), "data": data, "device": CPU,
              "seeds": seeds(2), "splits": True}  # fmt: skip
    return TransferPlan(**{**values, **changes})  # type: ignore[arg-type]


def transfer(store: Store, plan: TransferPlan, engine: Played) -> list[Any]:
    return asyncio.run(TransferRuns(plan, store, engine, say=lambda line: None, state={}).pairs())


def test_what_is_recorded_is_not_run_again(home: Home, data: PreparedData) -> None:
    with Store.open(home.folder) as store:
        plan, engine = plan_of(store, data), Played()
        pairs = transfer(store, plan, engine)
        assert [spec.contract.TIME_BUDGET for _, spec in engine.specs] == [20, 20, 16, 20, 20, 16]
        assert [spec.seed for _, spec in engine.specs] == [seeds(2)[0]] * 3 + [seeds(2)[1]] * 3
        assert ["LR = 2" in text for text, _ in engine.specs] == [False, True, True, True, False, True]
        assert all(pair.head_at_steps.reported_steps == pair.baseline.reported_steps == 200 for pair in pairs)
        again = Played()
        assert transfer(store, plan, again) == [without_audit(pair) for pair in pairs] and again.specs == []
        for change, runs in (({"seeds": seeds(3)}, 3), ({"contract": contract_for("cpu", budget=30.0)}, 6)):
            engine = Played()
            transfer(store, replace(plan, **change), engine)
            assert len(engine.specs) == runs


def without_audit(pair: Any) -> Any:
    changes = {
        name: replace(getattr(pair, name), audit_bpb=None, audit_rows=None) for name in ("baseline", "head", "head_at_steps")
    }
    return replace(pair, **changes)


def test_no_estimate_and_no_agent_sees_these_runs(home: Home, data: PreparedData) -> None:
    with Store.open(home.folder) as store:
        before = [store.query(f"SELECT * FROM {view}").rows for view in ("history", "leaderboard", "runs", "estimates")]
        gain = original_gain(store, plan_of(store, data).branch)
        transfer(store, plan_of(store, data), Played())
        assert [store.query(f"SELECT * FROM {view}").rows for view in ("history", "leaderboard", "runs", "estimates")] == before
        assert original_gain(store, plan_of(store, data).branch) == gain
        told = store.query("SELECT record FROM events WHERE kind = 'transfer_run'").rows
        assert len(told) == 6 and not any("audit_bpb" in record for (record,) in told)


def test_a_transfer_that_was_cut_off_goes_on(home: Home, data: PreparedData) -> None:
    with Store.open(home.folder) as store:
        plan, engine = plan_of(store, data), Played(fails=4)
        with pytest.raises(TransferFailed, match=r"head c{7}.*lost.*went away"):
            transfer(store, plan, engine)
        resumed = Played()
        transfer(store, plan, resumed)
        assert len(resumed.specs) == 3
        ids = [spec.run_id for _, spec in (*engine.specs, *resumed.specs)]
        assert len(set(ids)) == len(ids) == 7


def test_the_depth_is_set_in_both_and_the_batch_follows() -> None:
    text = "DEPTH = 9  # layers\nDEVICE_BATCH_SIZE = 128\n"
    side = Side(name="head", commit="c" * 40, train_py=text)
    assert at_depth(side, None, profile="standard", device=gpu()) == side
    deep = at_depth(side, 18, profile="standard", device=gpu()).train_py
    assert "DEPTH = 18  # layers" in deep and "DEVICE_BATCH_SIZE = 16" in deep
    assert "DEVICE_BATCH_SIZE = 128" in at_depth(side, 4, profile="cpu", device=CPU).train_py
    assert fitted_device_batch("standard", 128, 80 * 10**9, depth=9) == fitted_device_batch("standard", 128, 80 * 10**9)
    with pytest.raises(UserError, match="no constant DEPTH"):
        at_depth(replace(side, train_py="LAYERS = 9\n"), 12, profile="standard", device=gpu())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["apr1"], "'apr1'"),
        (["--depth", "0"], "--depth"),
        (["--budget", "nan"], "--budget"),
        (["--seeds", "0"], "--seeds"),
        ([], "prepare"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert status_of("transfer", *arguments, "--home", str(home.folder), "--cache", str(tmp_path / "none")) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def status_of(*arguments: str) -> object:
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


def test_a_branch_without_a_gain_and_a_held_home_are_one_line(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with home.lock():
        assert main(["transfer", "--home", str(home.folder)]) == 2
    assert "already running" in capsys.readouterr().err
    make_history(tmp_path / "flat", commits=("a" * 40, "a" * 40, "c" * 40))
    assert main(["transfer", "--home", str(tmp_path / "flat")]) == 2
    assert "after its baseline" in capsys.readouterr().err


def test_the_home_answers_meanwhile(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(home.folder) as store:
        branch = store.branch(BRANCH)
    assert branch is not None
    with held(home, branch) as (_, state):
        state |= {"phase": "training", "title": "head ccccccc", "fraction": 0.5, "loss": 3.0}
        assert main(["status", "--home", str(home.folder)]) == main(["sql", "SELECT 42", "--home", str(home.folder)]) == 0
    shown = capsys.readouterr().out
    assert "training head ccccccc (50%" in shown and "42" in shown
    assert home.holder() is None and not home.server_json.exists()


def test_a_gain_is_carried_to_another_budget_by_real_runs(
    checkout: Checkout, data: PreparedData, judge_command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """The same command again runs nothing, and records nothing twice."""
    monkeypatch.chdir(checkout.folder)
    monkeypatch.setitem(LocalEngine.__init__.__kwdefaults__, "judge_command", judge_command)
    monkeypatch.setattr("cluster.machine_load.measure_cpu_use.__defaults__", (0.05,))
    commits = [commit_with(checkout, text) for text in ("# a baseline", "LR = 0.03", "# a discard")]
    contract = replace(contract_for("cpu", source=data.source), EVAL_TOKENS=256 * 8)
    make_history(checkout.home, commits=tuple(commits), contract_json=contract.to_json(),
                 score_fingerprint=data.score_fingerprint(contract))  # fmt: skip
    command = ["transfer", "mar8", "--budget", "1", "--seeds", "1", "--devices", "cpu", "--cache", str(data.folder.parents[1])]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gain"]["mean"] > 0.1 and told["budget"] == 1 and told["gain"]["low"] is None
    assert told["original"]["baseline"] == 3.0 and told["original"]["head"] == 2.5 and 2 <= len(told["runs"]) <= 3
    assert all((checkout.home / "runs" / run / "run.log").is_file() for run in told["runs"])
    assert main(command) == 0
    assert "running" not in capsys.readouterr().out
    with Store.open(checkout.home) as store:
        kinds = store.query("SELECT kind, count(*) FROM events WHERE kind LIKE 'transfer%' GROUP BY kind ORDER BY kind").rows
    assert kinds == (("transfer", 1), ("transfer_run", len(told["runs"])))


def commit_with(checkout: Checkout, line: str) -> str:
    """The commit of a train.py with a line that is added, or instead of the one that sets the same constant."""
    name = line.partition(" = ")[0]
    text = checkout.train_py.read_text()
    old = next((old for old in text.splitlines() if old.startswith(f"{name} = ")), "")
    checkout.train_py.write_text(text.replace(old, line, 1) if old else f"{text}{line}\n")
    checkout.git("commit", "--quiet", "--all", "--message", line)
    return checkout.git("rev-parse", "HEAD").strip()
