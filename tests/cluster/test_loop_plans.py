"""Which loops begin when devices join a cluster, and on which branches."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.farm_options import FarmOptions
from cluster.hardware import Device, platform_identity
from cluster.home import Home
from cluster.loop_plans import MOST_LOOPS, LoopPlan, Planner, check_loops, check_same_scoring, check_same_terms
from research.contract import Contract
from research.errors import UserError
from research.profiles import contract_for
from results.experiment import Branch
from results.store import Store
from tests.cluster.farm_samples import CPU, gpu
from tests.results.new_home import with_tables
from tests.results.result_samples import make_branch


@pytest.fixture
def make_planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A planner on a store of its own; its data is prepared by nobody."""
    monkeypatch.setattr("cluster.loop_plans.prepared_data", lambda contract, options, **_: contract.profile)
    with Store.open(with_tables(tmp_path / "home")) as store:

        def make(**changes: Any) -> Planner:
            values = {"repo": tmp_path, "home": Home(tmp_path / "home"), "cache": tmp_path, "tag": "night",
                      "researcher": "search", "devices": (CPU,), "engine": "ray"}  # fmt: skip
            return Planner(FarmOptions(**(values | changes)), store, say=print)

        make.store = store
        yield make


def names(plans: list[LoopPlan]) -> list[str]:
    return [plan.branch_name.removeprefix("autoresearch/") for plan in plans]


H100 = [replace(gpu(index), node="a") for index in range(4)]
A10 = replace(gpu(0), node="b", name="NVIDIA A10", memory_bytes=24 * 10**9, power_limit_watts=150.0)


def test_each_device_gets_a_loop(make_planner) -> None:
    planner = make_planner()
    assert names(planner.joining(H100[:2], H100[:2])) == ["night-gpu0", "night-gpu1"]
    assert names(planner.joining([A10], [*H100[:2], A10])) == ["night-gpu2"]


def test_a_device_that_takes_anothers_place_takes_its_loop_along(make_planner) -> None:
    """A loop belongs to a platform: where a GPU of the same kind is gone, the new one works for the loop that is there."""
    planner = make_planner()
    planner.joining(H100[:2], H100[:2])
    assert planner.joining([H100[2]], [H100[0], H100[2]]) == []
    assert names(planner.joining([A10], [H100[0], H100[2], A10])) == ["night-gpu2"]


def test_a_number_of_loops_is_kept_to(make_planner) -> None:
    planner = make_planner(loops=3)
    assert names(planner.joining(H100[:2], H100[:2])) == ["night-gpu0", "night-gpu1", "night-gpu2"]
    assert planner.joining([A10], [*H100[:2], A10]) == []
    assert names(make_planner(loops=1).joining(H100, H100)) == ["night"]


def test_branches_are_gone_on_with_by_platform(make_planner) -> None:
    """After a stop each device goes on with a branch of its own platform, whatever the order in which they come."""
    for name, device in (("night-gpu0", H100[0]), ("night-gpu1", A10)):
        make_planner.store.add_branch(
            Branch(
                name=f"autoresearch/{name}",
                tag="night",
                loop=0,
                profile="standard",
                contract_json=contract_for("standard").to_json(),
                score_fingerprint="s",
                data_fingerprint="d",
                platform=platform_identity(device),
                baseline_commit="c",
                created="2026-03-08T20:00:00Z",
            )
        )
    joined = [A10, H100[0], H100[1]]
    assert names(make_planner().joining(joined, joined)) == ["night-gpu1", "night-gpu0", "night-gpu2"]


def branch_begun(device: Device, **changes: Any) -> Branch:
    contract = replace(contract_for("cpu"), **changes)
    return Branch(name="autoresearch/night", tag="night", loop=0, profile="cpu", contract_json=contract.to_json(),
                  score_fingerprint="s", data_fingerprint="d", platform=platform_identity(device), baseline_commit="c",
                  created="2026-03-08T20:00:00Z")  # fmt: skip


def test_a_branch_goes_on_under_its_own_terms() -> None:
    contract = replace(contract_for("cpu"), TIME_BUDGET=5.0)
    check_same_terms(branch_begun(CPU, TIME_BUDGET=5.0), CPU, contract)
    check_same_terms(branch_begun(CPU, TIME_BUDGET=5), CPU, contract)


@pytest.mark.parametrize(
    ("asked", "device", "says"),
    [
        (contract_for("cpu", budget=7.5), CPU, "began with --budget 5, not --budget 7.5: give --budget 5 again, or start"),
        (contract_for("cpu", budget=5, source="files:a b"), CPU, "not --source 'files:a b': give --source packages again"),
        (
            contract_for("small", budget=5),
            CPU,
            "give --profile cpu --source packages again, or start afresh with another --tag",
        ),
        (replace(contract_for("cpu", budget=5), EVAL_TOKENS=2**20), CPU, "this version of the farm has EVAL_TOKENS 1048576"),
        (contract_for("cpu", budget=5), gpu(), "was measured on Some CPU, 2 threads, this is NVIDIA H100"),
    ],
)
def test_other_terms_are_refused_with_both_ways_out(asked: Contract, device: Device, says: str) -> None:
    with pytest.raises(UserError) as refused:
        check_same_terms(branch_begun(CPU, TIME_BUDGET=5), device, asked)
    assert says in str(refused.value) and "start afresh with another --tag" in str(refused.value)


def test_a_branch_of_a_version_that_scores_differently_is_refused_with_both_ways_out() -> None:
    branch, contract = branch_begun(CPU), contract_for("cpu")
    plan = LoopPlan(branch_name=branch.name, number=0, device=CPU, contract=contract, data=scored_as("s"))
    check_same_scoring(branch, plan)
    with pytest.raises(UserError) as refused:
        check_same_scoring(branch, replace(plan, data=scored_as("another")))
    for fact in (branch.name, "scores differently", "version of the farm that it began with", "another --tag"):
        assert fact in str(refused.value)


def scored_as(fingerprint: str) -> Any:
    """Prepared data of which only the score fingerprint is looked at."""
    return SimpleNamespace(score_fingerprint=lambda contract: fingerprint)


def test_a_branch_whose_contract_has_other_constants_is_refused() -> None:
    """A version of the farm that knows a constant more, or one less."""
    branch, contract = branch_begun(CPU), contract_for("cpu")
    constants = json.loads(branch.contract_json)
    for changed in (constants | {"OLD": 1}, {name: constants[name] for name in constants if name != "VOCAB_SIZE"}):
        with pytest.raises(UserError, match="this version of the farm has"):
            check_same_terms(replace(branch, contract_json=json.dumps(changed)), CPU, contract)


def test_local_loops_are_named_by_their_device(make_planner) -> None:
    two = (gpu(0), gpu(2))
    assert names(make_planner(engine="local", devices=two, loops=3).local()) == ["night-gpu0", "night-gpu2", "night-gpu0-2"]
    assert names(make_planner(engine="local").local()) == ["night"]


def test_a_branch_is_resumed_with_the_data_that_it_began_with(make_planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer data, of text that has changed since, is for new branches."""
    asked: list[str | None] = []

    def prepared(contract: Contract, options: FarmOptions, *, score_fingerprint: str | None, say: object) -> str:
        asked.append(score_fingerprint)
        return contract.profile

    monkeypatch.setattr("cluster.loop_plans.prepared_data", prepared)
    make_planner().terms(CPU)
    make_planner.store.add_branch(branch_begun(CPU))
    make_planner().terms(CPU)
    make_planner(tag="another").terms(CPU)
    assert asked == [None, "s", None]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_no_data_is_prepared_for_a_branch_that_refuses_the_terms(make_planner, monkeypatch, engine: str) -> None:
    """Whatever was asked for differs: the source, the budget, the profile, or the device."""
    make_planner.store.add_branch(_branch_of(contract_for("cpu"), "autoresearch/night", platform=platform_identity(CPU)))
    prepared: list[str] = []
    monkeypatch.setattr("cluster.loop_plans.prepared_data", lambda contract, *_, **__: prepared.append(contract.source))

    def start(**changes: Any) -> None:
        planner = make_planner(engine=engine, profile="cpu", **changes)
        _ = planner.local() if engine == "local" else planner.joining([CPU], [CPU])

    for changes, fact in (({"source": "stdlib"}, "--source"), ({"budget": 5.0}, "--budget 15")):
        with pytest.raises(UserError, match=fact):
            start(**changes)
    if engine == "local":  # on a cluster another platform has another branch
        with pytest.raises(UserError, match="was measured on"):
            start(devices=(replace(CPU, threads=64),))
    assert prepared == []
    start()
    assert prepared


def test_more_loops_than_devices_can_serve_are_refused(make_planner) -> None:
    options = make_planner(loops=1000)._options
    for devices in (1, 2):
        with pytest.raises(UserError, match=rf"--loops 1000 .* at most --loops {MOST_LOOPS * devices}\."):
            check_loops(options, devices, [])
        check_loops(replace(options, loops=MOST_LOOPS * devices), devices, [])
    begun = [_branch_of(contract_for("cpu"), f"autoresearch/night-{number}") for number in range(20)]
    check_loops(replace(options, loops=20), 1, begun)  # an older farm let them begin


def _branch_of(contract: Contract, name: str, *, platform: str = "a CPU") -> Branch:
    return make_branch(name, tag="night", profile="cpu", contract_json=contract.to_json(), platform=platform)
