"""`farm confirm`: the head and its baseline under fresh seeds, by real runs of the judge."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.home import Home
from results.store import Store
from tests.cluster.farm_samples import make_history
from tests.cluster.tiny_checkout import GOOD_LR, Checkout
from tests.results.result_samples import make_branch, make_experiment

SIDES = """SELECT e.id, e.parents[1], count(r.seed), list(DISTINCT r.seed ORDER BY r.seed) FROM experiments e
           JOIN runs r ON r.experiment_id = e.id WHERE e.kind = 'confirm' GROUP BY ALL ORDER BY e.id"""


@pytest.fixture
def checkout(quick_checkout: Checkout) -> Checkout:
    return quick_checkout


def rows(checkout: Checkout, sql: str) -> list[tuple[Any, ...]]:
    with Store.open(checkout.home, wait_s=5.0) as store:
        return list(store.query(sql).rows)


def test_head_and_baseline_run_under_the_same_fresh_seeds_and_what_was_cut_off_is_resumed(checkout: Checkout) -> None:
    checkout.edit("LR = 0.000001", f"LR = {GOOD_LR}")
    assert "keep" in checkout.farm("try", "--tag", "one", "--devices", "cpu", "--budget", "0.5")
    estimates = rows(checkout, "SELECT * FROM estimates")
    farm = checkout.start("confirm", "--seeds", "2", "--devices", "cpu")
    deadline = time.monotonic() + 60
    while "run:one-0002-1" not in (checkout.home / "journal.jsonl").read_text():
        assert time.monotonic() < deadline and farm.poll() is None
        time.sleep(0.05)
    os.killpg(farm.pid, signal.SIGINT)
    said = farm.communicate(timeout=30)[0]
    assert "4 runs of 4" in said and "the same command" in said and farm.returncode == 130

    output = checkout.farm("confirm", "--devices", "cpu")
    assert "3 runs of 4" in output
    sides = rows(checkout, SIDES)
    assert [side[:3] for side in sides] == [("one-0002", "one-0001", 2), ("one-0003", "one-0000", 2)]
    assert sides[0][3] == sides[1][3]
    common = rows(checkout, "SELECT seed FROM runs WHERE experiment_id < 'one-0002'")
    assert not {seed for (seed,) in common} & set(sides[0][3])
    assert rows(checkout, "SELECT * FROM estimates") == estimates
    [(gain, decision)] = rows(checkout, "SELECT gain, decision FROM history WHERE number = 2")
    assert gain > 0.1 and f"{gain:+.4f}" in output and decision == "measured"
    assert (checkout.folder / "results.tsv").read_text().count("confirm 1: ") == 2
    assert main(["confirm", "one-0000", "--home", str(checkout.home)]) == 2  # it is the baseline


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_history(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--seeds", "1"), "--seeds must be a whole number from 2"),
        (("nobody",), "'nobody'"),
        (("mar8-0003",), "mar8-0003 has no score"),
        (("mar9",), "no baseline"),
    ],
)
def test_what_cannot_be_confirmed_is_refused_in_one_line(
    home: Path, words: tuple[str, ...], fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(home) as store:
        store.add_experiment(make_experiment(3, branch="autoresearch/mar8"))
        store.add_branch(make_branch("autoresearch/mar9"))
    try:
        status: object = main(["confirm", *words, "--home", str(home)])
    except SystemExit as refused:
        status = refused.code
    said = capsys.readouterr().err
    assert status == 2 and fact in said and len(said.splitlines()) == 1


def test_a_running_farm_is_to_be_stopped_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Home(home).lock():
        assert main(["confirm", "--home", str(home)]) == 2
    said = capsys.readouterr().err
    assert "farm stop" in said and len(said.splitlines()) == 1
