"""What a farm says when it has ended."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.end_summary import summarise, summary_lines
from results.store import Store
from tests.results.result_samples import add, make_branch


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "home") as opened:
        opened.add_branch(make_branch())
        yield opened


def last_line(store: Store) -> str:
    return summary_lines(summarise(store, [make_branch().name], seconds=60.0, ended="stopped"))[-1]


def test_the_gain_is_the_expected_one_with_its_interval(store: Store) -> None:
    add(store, 0, "keep", 0.99)
    add(store, 1, "keep", 0.989)  # one sigma or two: mostly luck
    found = re.search(r"val_bpb 0.9\d* -> (\S+) expected: gain (\S+) \[(\S+), (\S+)\]", last_line(store))
    assert found is not None, last_line(store)
    head, gain, low, high = map(float, found.groups())
    assert low < gain < high and gain < 0.001 and head > 0.989


def test_a_farm_that_kept_nothing_gained_nothing(store: Store) -> None:
    assert "1 kept" not in last_line(store) and "val_bpb" not in last_line(store)
    add(store, 0, "keep", 0.99)
    add(store, 1, "discard", 0.995)
    assert "the head is still the baseline" in last_line(store)
