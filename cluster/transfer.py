"""`farm transfer`: a branch's baseline and head under other terms, in turn on one device, through the judge of all runs.

Their runs belong to another contract or another train.py than the branch's: they are recorded as events, and no estimate,
verdict or leaderboard sees them. What has been recorded is not run again.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agent.repo.branch_names import short_name
from agent.submissions import submission_from, submit
from cluster.engine import Engine, LocalEngine
from cluster.hardware import Device, platform_identity
from cluster.home import Home
from cluster.local_api import FarmServer, Submitted
from cluster.person_requests import record
from cluster.stop_request import interrupt_this_process
from research.contract import Contract
from research.data.prepared import PreparedData
from research.device_batch import fitted_device_batch
from research.errors import UserError
from research.formatting import duration, one_line
from research.hyperparameters import read_constants, write_constants
from research.recipes import Constant
from research.result import RunResult, RunSpec
from results.expected_gain import expected_gain
from results.experiment import Branch, ExperimentRecord, Head, run_from, to_body
from results.foreign_import import record_import
from results.group_state import seed_named
from results.store import Store
from results.table_rows import without_audit
from results.transfer import Original, Pair, seconds_for_equal_steps

TRANSFER, TRANSFER_RUN = "transfer", "transfer_run"
"""The kinds of the events that record what a transfer found, and each of its runs."""

NEVER_KEPT = 0.0
"""The score below which these runs would be kept: none is, so that part of the rows are checked and no audit is scored."""

Say = Callable[[str], None]


class TransferFailed(Exception):
    """A run ended without a score, for the reason in the text."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two train.py that are compared."""

    name: Literal["baseline", "head"]
    commit: str
    train_py: str
    """The text that runs: the commit's, with the depth that is asked for."""


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """What is run, and where."""

    branch: Branch
    baseline: Side
    head: Side
    depth: int | None
    """DEPTH of both; None: each has its own."""
    contract: Contract
    data: PreparedData
    device: Device
    seeds: tuple[int, ...]
    splits: bool
    """Whether the head also runs for the baseline's number of steps."""

    @property
    def runs(self) -> int:
        """The number of runs, at most."""
        return len(self.seeds) * (3 if self.splits else 2)

    def terms(self) -> dict[str, Any]:
        """What the recorded findings say of the plan."""
        return {
            "branch": self.branch.name,
            "baseline_commit": self.baseline.commit,
            "head_commit": self.head.commit,
            "depth": self.depth,
            "budget": self.contract.TIME_BUDGET,
            "platform": platform_identity(self.device),
            "score_fingerprint": self.data.score_fingerprint(self.contract),
        }


class TransferRuns:
    """Executes a plan's runs that are not recorded yet, and records them."""

    def __init__(self, plan: TransferPlan, store: Store, engine: Engine, *, say: Say, state: dict[str, Any]) -> None:
        """`state` gets what is running, for `farm status`."""
        self._plan, self._store, self._engine, self._say, self._state = plan, store, engine, say, state

    async def pairs(self) -> list[Pair]:
        """A pair of runs for each seed. Raises TransferFailed if one has no score."""
        return [await self._pair(number, seed) for number, seed in enumerate(self._plan.seeds)]

    async def _pair(self, number: int, seed: int) -> Pair:
        """The runs under one seed. Under every second one the head goes first, since a machine's speed may drift."""
        plan, budget = self._plan, self._plan.contract.TIME_BUDGET
        sides = (plan.baseline, plan.head) if number % 2 == 0 else (plan.head, plan.baseline)
        runs = {side.name: await self._run(side, seed, budget) for side in sides}
        pair = Pair(baseline=runs["baseline"], head=runs["head"])
        seconds = seconds_for_equal_steps(pair, budget) if plan.splits else None
        if seconds is None:
            return pair
        at_steps = pair.head if seconds == budget else await self._run(plan.head, seed, seconds)
        return Pair(baseline=pair.baseline, head=pair.head, head_at_steps=at_steps)

    async def _run(self, side: Side, seed: int, seconds: float) -> RunResult:
        """The run of a train.py for so many seconds, as recorded or run now. Raises TransferFailed if it has no score."""
        contract = replace(self._plan.contract, TIME_BUDGET=seconds)
        what = f"{side.name} {side.commit[:7]}, seed {seed}, {seconds:g} s"
        key = self._key(side, contract, seed)
        recorded = self._store.events(TRANSFER_RUN, self._plan.branch.name)
        result = next((run_from(event["run"]) for event in recorded if event["key"] == key and is_scored(event["run"])), None)
        if result is None:
            self._say(f"  {what}: running")
            result = await self._execute(side, contract, seed, number=len(recorded) + 1, what=what)
            self._store.add_event(TRANSFER_RUN, {**self._plan.terms(), "side": side.name, "commit": side.commit, "seed": seed,
                                                 "seconds": seconds, "key": key,
                                                 "run": without_audit(to_body(result))})  # fmt: skip
        if result.status != "ok" or result.val_bpb is None:
            raise TransferFailed(f"the {what} ended as {result.status}: {one_line(result.reason)}")
        steps = "" if result.reported_steps is None else f", {result.reported_steps:,} steps by its report"
        self._say(f"  {what}: val_bpb {result.val_bpb:.6f}{steps} ({result.run_id})")
        return result

    async def _execute(self, side: Side, contract: Contract, seed: int, *, number: int, what: str) -> RunResult:
        run_id = f"{short_name(self._plan.branch.name)}-transfer-{number:04d}"
        spec = RunSpec(run_id=run_id, contract=contract, seed=seed, keep_below=NEVER_KEPT)
        self._state |= {"phase": "starting", "title": what}
        return await self._engine.execute(self._plan.device, side.train_py, spec, self._on_progress)

    def _on_progress(self, progress: dict[str, Any]) -> None:
        self._state |= {name: progress[name] for name in ("phase", "loss", "fraction") if name in progress}

    def _key(self, side: Side, contract: Contract, seed: int) -> list[str | int]:
        """What must be equal for a recorded run to be the same one."""
        data, train = self._plan.data, hashlib.sha256(side.train_py.encode()).hexdigest()
        platform = platform_identity(self._plan.device)
        return [train, data.score_fingerprint(contract), data.data_fingerprint, platform, seed]


async def run_pairs(plan: TransferPlan, store: Store, *, runs_folder: Path, say: Say, state: dict[str, Any]) -> list[Pair]:
    """The plan's pairs, from runs on this machine as far as they are not recorded. Raises TransferFailed."""
    engine = LocalEngine({plan.device: plan.data.folder}, runs_folder=runs_folder)
    try:
        return await TransferRuns(plan, store, engine, say=say, state=state).pairs()
    finally:
        await engine.close()


def is_scored(run: dict[str, Any]) -> bool:
    """Whether a recorded run ended with a score."""
    return run["status"] == "ok" and run["val_bpb"] is not None


def seeds(count: int) -> tuple[int, ...]:
    """The first so many seeds of all transfers: no idea was kept for its luck under these."""
    return tuple(seed_named(f"transfer {number}") for number in range(count))


def at_depth(side: Side, depth: int | None, *, profile: str, device: Device) -> Side:
    """The train.py with this DEPTH, and a device batch that fits the device's memory then; unchanged for None.

    Width, heads and learning rates follow from DEPTH in the shipped train.py. Raises UserError for a train.py without it.
    """
    if depth is None:
        return side
    constants = read_constants(side.train_py)
    if "DEPTH" not in constants:
        raise UserError(f"The {side.name}'s train.py ({side.commit[:7]}) has no constant DEPTH to set: leave out --depth.")
    values: dict[str, Constant] = {"DEPTH": depth}
    batch = constants.get("DEVICE_BATCH_SIZE")
    if isinstance(batch, int) and device.kind == "cuda":
        values["DEVICE_BATCH_SIZE"] = fitted_device_batch(profile, batch, device.free_bytes, depth=depth)
    return Side(name=side.name, commit=side.commit, train_py=write_constants(side.train_py, values))


def baseline_and_head(store: Store, branch: Branch) -> tuple[ExperimentRecord, Head]:
    """The measured baseline of a branch's group, and its head. Raises UserError if there is no gain to speak of."""
    found = (store.baseline(member.name) for member in store.groups.members(branch.head_branch))
    baseline, head = next((record for record in found if record is not None), None), store.head(branch.name)
    if baseline is None or head is None:
        raise UserError(f"{branch.name} has no score yet: name another branch or tag, or let the farm run on.")
    if head.commit == baseline.experiment.commit:
        raise UserError(f"Nothing was kept on {branch.name} after its baseline: there is no gain that could carry over.")
    return baseline, head


def original_gain(store: Store, branch: Branch) -> Original:
    """What the branch gained under its own terms. Raises UserError as `baseline_and_head` does."""
    baseline, head = baseline_and_head(store, branch)
    assert baseline.val_bpb is not None, "a kept baseline has a score"
    found = expected_gain(store.groups.state(branch.head_branch), head.commit)
    assert found is not None, "the head has run"
    return Original(baseline=baseline.val_bpb, head=head.mean, gain=found.gain, low=found.low, high=found.high)


def plan_line(plan: TransferPlan, overhead_seconds: float) -> str:
    """What will be run, and how long that takes at most."""
    depth = "" if plan.depth is None else f" at depth {plan.depth}"
    budget = plan.contract.TIME_BUDGET
    total = duration(plan.runs * (budget + overhead_seconds))
    what = "baseline, head, and the head at equal steps" if plan.splits else "baseline and head"
    where = f"tag {plan.branch.tag}, {plan.branch.name}{depth}, {budget:g} s a run, on {plan.device.key}"
    return f"{where}: {what}, {len(plan.seeds)} of each, about {total}"


@contextlib.contextmanager
def held(home: Home, branch: Branch) -> Iterator[tuple[Store, dict[str, Any]]]:
    """The store of a home that is held for a transfer, and what `farm status` shows of it, which answers meanwhile."""
    state: dict[str, Any] = {}

    def status() -> dict[str, Any]:
        loops = {f"transfer of {branch.name}": dict(state)}  # no loop, which another command would resume
        return {"tag": branch.tag, "home": str(home.folder), "loops": loops, "devices": [], "waiting": [], "quarantined": {}}

    with home.lock(), Store.open(home.folder, wait_s=5.0) as store:
        server = FarmServer(
            home,
            status=status,
            query=lambda sql, audience: store.queries.table(sql, audience=audience),
            ask=lambda asked: record(store, asked),
            record_import=lambda event, replace: record_import(store, event, replace=replace),
            submit=lambda fields: Submitted(id=submit(store, submission_from(fields)), is_taken_up=False),
            stop=interrupt_this_process,
        )
        server.start()
        with contextlib.closing(server):
            yield store, state
