"""Which loops begin when devices join a cluster, and on which branches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from farm_samples import CPU, gpu

from cluster.hardware import platform_identity
from cluster.home import Home
from cluster.options import FarmOptions
from cluster.plans import LoopPlan, Planner
from research.contract import contract_for
from results.experiment import Branch
from results.store import Store


@pytest.fixture
def make_planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A planner on a store of its own; its data is prepared by nobody."""
    monkeypatch.setattr("cluster.plans.prepared_data", lambda contract, options, say: contract.profile)
    with Store.open(tmp_path / "home") as store:

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


def test_local_loops_are_named_by_their_device(make_planner) -> None:
    two = (gpu(0), gpu(2))
    assert names(make_planner(engine="local", devices=two, loops=3).local()) == ["night-gpu0", "night-gpu2", "night-gpu0-2"]
    assert names(make_planner(engine="local").local()) == ["night"]
