"""What each researcher of a group has found, and for what."""

import re
from dataclasses import replace

import pytest

from results.experiment import ExperimentRecord, Usage
from results.group_state import estimates
from results.report import morning_report
from results.researcher_yields import Yield, yields
from results.verdict import figure
from tests.results.history_samples import history_of
from tests.results.test_report import night_of


def by(record: ExperimentRecord, researcher: str, usage: Usage | None = None) -> ExperimentRecord:
    """The record as one of this researcher's."""
    return replace(record, experiment=replace(record.experiment, researcher=researcher, usage=usage or Usage()))


def test_several_researchers_are_compared_by_what_they_found_and_took() -> None:
    baseline, first, second, third = night_of(0.99, 1.01, 0.97)
    paid = Usage(researcher="codex", cost_usd=0.5, cost_basis="native-reported", answers=1)
    records = [baseline, by(first, "codex", paid), by(second, "search"), by(third, "search")]
    text = morning_report([history_of(records)])
    told = " ".join(text.split())
    search, codex = (
        re.search(rf"By {name}: 1 in the head, gain [^$]*? per hour\), (\S+)", told) for name in ("search", "codex")
    )
    assert search and codex and search.start() < codex.start(), "the largest gain first"
    assert search[1] == "free" and codex[1] == "$0.50" and "per dollar" in told
    assert max(map(len, text.splitlines())) <= 100
    ideas = [line for line in text.splitlines() if re.search(r"\[mar8-000[13]\]", line) and " P " in line]
    assert ["(search)" in line for line in ideas] == [True, False] and ["(codex)" in line for line in ideas] == [False, True]
    alone = morning_report([history_of([baseline, *(by(one, "search") for one in (first, second, third))])])
    assert "By search" not in alone and "(search)" not in alone


def test_a_researchers_yield_is_its_gain_per_hour_and_per_dollar() -> None:
    baseline, first, second = night_of(0.99, 1.01)
    timed = replace(by(first, "codex"), runs=tuple(replace(run, total_seconds=1800.0) for run in first.runs))
    told = (Usage(researcher="codex", cost_usd=0.25, answers=1), Usage(researcher="pi", cost_basis="missing", answers=1))
    history = history_of([baseline, timed, by(second, "search")])
    assert history.group.state is not None
    known = {found.idea: found for found in estimates(history.group.state) if found.idea == "mar8-0001"}
    codex, *others = yields(history.group, known, (*told, Usage(cost_usd=1.0, answers=1)))
    assert (codex.researcher, codex.kept, codex.device_seconds, codex.cost.cost_usd) == ("codex", 1, 1800.0, 0.25)
    assert codex.gain == known["mar8-0001"].effect > 0
    assert f"{figure(2 * codex.gain)} per hour" in codex.line() and f"{figure(4 * codex.gain)} per dollar" in codex.line()
    assert {one.researcher: (one.kept, one.cost.cost_usd) for one in others} == {
        "search": (0, None),
        "pi": (0, None),
        "claude": (0, 1.0),  # an older version recorded no name, and only it cost anything then
    }
    assert next(one for one in others if one.researcher == "pi").line().endswith("cost unknown")


@pytest.mark.parametrize(("seconds", "gain", "usd"), [(0.2, 0.01, 0.001), (3600.0, 0.00001, 1.0), (3600.0, -0.002, 1.0)])
def test_no_rate_is_told_of_what_is_told_as_nothing(seconds: float, gain: float, usd: float) -> None:
    cost = Usage(researcher="codex", cost_usd=usd, answers=1)
    line = Yield(researcher="codex", kept=1, gain=gain, device_seconds=seconds, cost=cost).line()
    assert "per hour" not in line and "per dollar" not in line


@pytest.mark.parametrize(("seconds", "scores", "told"), [
    (0.0001, (0.99,), None),
    (0.3, (0.9,), " s for each 0.001"),
    (340.0, (0.99,), "m "),
    (340.0, (1.0005, 1.0004), None),
])  # fmt: skip
def test_the_price_of_a_gain_has_a_unit_that_shows_it(seconds: float, scores: tuple[float, ...], told: str | None) -> None:
    """However short the runs are; nothing is said of a gain that is told as none."""
    records = [replace(one, runs=tuple(replace(run, total_seconds=seconds) for run in one.runs)) for one in night_of(*scores)]
    text = morning_report([history_of(records)])
    assert not re.search(r"(?<!\d)0s for each", text)
    price = re.search(r"Device time: .*", text)
    assert (told is None) == (price is None) and (price is None or told is None or told in price[0])
