"""What is said before a start follows from what was measured, else from a guess."""

from dataclasses import replace

import pytest

from agent.researchers.prices import Price
from cluster.commands.read_home import read_history
from cluster.home import Home
from cluster.start_estimate import estimate, free_disk
from research.profiles import contract_for
from results.experiment import Usage
from tests.cluster.farm_samples import CPU, gpu, make_history


def costs(tmp_path, **changes):
    values = {
        "contract": contract_for("cpu"),
        "devices": [CPU],
        "loops": 1,
        "researcher": "search",
        "model": None,
        "max_cost": None,
        "samples": False,
        "histories": [],
        "home": tmp_path,
    }
    return estimate(**{**values, **changes})


def test_measured_runs_replace_the_guess(tmp_path):
    make_history(tmp_path / "home")
    measured = costs(tmp_path, histories=read_history(Home(tmp_path / "home")))
    assert measured.overhead_seconds == 10.0 and "measured" in measured.lines()[0]
    assert measured.runs_per_night == 8 * 3600 / 25
    assert costs(tmp_path).overhead_seconds != 10.0 and "guess" in costs(tmp_path).lines()[0]


@pytest.mark.parametrize("other", [{"devices": [replace(CPU, threads=16)]}, {"contract": contract_for("small")}])
def test_what_was_measured_elsewhere_is_no_measure_here(tmp_path, other):
    make_history(tmp_path / "home")
    assert not costs(tmp_path, histories=read_history(Home(tmp_path / "home")), **other).is_measured


def test_a_night_of_short_runs_on_a_gpu_is_not_underestimated(tmp_path):
    """On an H200 with --budget 30 the overhead was 24 s, and a night had about 530 runs."""
    short = costs(tmp_path, contract=contract_for("standard", budget=30), devices=[gpu()])
    assert 480 < short.runs_per_night < 580


def test_models_of_keeps_alone_are_counted(tmp_path):
    """320 runs of which a fifth leaves 250 MB fit on a disk that 320 such models would fill."""
    gpus = {"contract": contract_for("standard"), "devices": [gpu()]}
    saving = replace(costs(tmp_path, samples=True, **gpus), free_bytes=10**10)
    assert "250.0 MB per keep" in " ".join(saving.lines()) and "per keep" not in " ".join(costs(tmp_path, **gpus).lines())
    assert not any("warning" in line for line in saving.lines())
    assert any("warning" in line for line in replace(saving, kept_share=1.0).lines())


def test_power_is_said_where_it_is_known(tmp_path):
    contract = contract_for("standard")
    two = costs(tmp_path, contract=contract, devices=[gpu(0), gpu(1)], loops=2)
    assert "power: at most 11.2 kWh in 8 hours" in two.lines()
    assert "2 devices" in two.lines()[0]
    assert costs(tmp_path, contract=contract, devices=[gpu(0), gpu(1, power_limit_watts=None)], loops=2).watts is None


def test_what_a_researcher_costs(tmp_path):
    assert any("free of charge" in line for line in costs(tmp_path).lines())
    assert any("unknown price" in line for line in costs(tmp_path, researcher="command:codex exec").lines())
    assert costs(tmp_path, researcher="claude").idea_usd > 0
    assert costs(tmp_path, researcher="claude", model="unheard of").idea_usd is None
    make_history(tmp_path / "home")
    histories = read_history(Home(tmp_path / "home"))
    told = {"researcher": "claude", "model": "m"}
    assert costs(tmp_path, **told, histories=histories).idea_usd == 0.25
    failed = Usage(model="m", cost_usd=0.5, answers=1)
    more = [replace(history, costs=(*history.costs, failed)) for history in histories]
    assert costs(tmp_path, **told, histories=more).idea_usd == pytest.approx(0.25 + 0.5 / len(histories[0].costs))


def test_a_users_prices_say_what_a_model_costs_whose_price_is_not_known(tmp_path):
    assert costs(tmp_path, researcher="claude", model="m-1").idea_usd is None
    one, two = (
        costs(tmp_path, researcher="claude", model="m-1", prices={"m-1": Price(input=usd, output=usd)}) for usd in (1, 2)
    )
    assert one.idea_usd > 0 and two.idea_usd == pytest.approx(2 * one.idea_usd)


def test_a_mix_costs_the_mean_over_its_loops(tmp_path):
    of_claude = costs(tmp_path, researcher="claude").idea_usd
    assert costs(tmp_path, researcher="claude:1,search:3").idea_usd == pytest.approx(of_claude / 4)
    assert costs(tmp_path, researcher="claude:1,codex:1").idea_usd is None
    assert any("researcher: claude:1,search:3" in line for line in costs(tmp_path, researcher="claude:1,search:3").lines())


def test_a_limit_of_money_is_said_beside_what_the_night_would_cost(tmp_path):
    [line] = [line for line in costs(tmp_path, researcher="claude", max_cost=0.01).lines() if line.startswith("researcher")]
    assert "--max-cost holds it at $0.01, before the $" in line
    [line] = [line for line in costs(tmp_path, researcher="claude", max_cost=1e6).lines() if line.startswith("researcher")]
    assert "in 8 hours; --max-cost holds it at $1,000,000.00" in line
    assert not any("--max-cost" in line for line in costs(tmp_path, researcher="claude").lines())


def test_a_disk_that_is_too_small_is_named(tmp_path):
    roomy = costs(tmp_path)
    assert not any("warning" in line for line in roomy.lines())
    assert any("warning: the disk will be full" in line for line in replace(roomy, free_bytes=10**6).lines())


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_disk(tmp_path / "not" / "there") > 0
