"""What `farm run` and the demo print before and after: it must be true, and its commands must work when they are pasted."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import main, make_parser
from cluster.commands.research import before_start, look_lines
from cluster.commands.start import next_lines
from cluster.home import Home
from cluster.options import FarmOptions
from cluster.summary import FarmSummary, summary_lines
from research.errors import UserError
from results.experiment import Usage
from results.store import Store
from tests.cluster.farm_samples import CPU, make_history


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a short history that commands don't find by themselves, in a folder whose name a shell would split."""
    monkeypatch.delenv("FARM_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    make_history(tmp_path / "my home")
    return Home(tmp_path / "my home")


def pasted(lines: list[str]) -> list[list[str]]:
    """The words of each command among the lines, as a shell makes them."""
    return [shlex.split(line)[1:] for line in lines if line.startswith("  farm ")]


def test_commands_after_a_run_work_when_they_are_pasted(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    commands = pasted(look_lines(home))
    assert [words[0] for words in commands] == ["report", "diff", "sql"]
    for words in commands:
        assert make_parser().parse_args(words).home == str(home.folder)
    assert main(commands[0]) == main(commands[2]) == 0
    assert "autoresearch/mar8" in capsys.readouterr().out


def test_commands_after_the_demo_name_its_home(home: Home) -> None:
    commands = pasted(next_lines(home, "mar8"))
    assert [words[0] for words in commands] == ["sql", "diff", "run"]
    assert all(make_parser().parse_args(words).home == str(home.folder) for words in commands)
    assert main(commands[0]) == 0


def test_other_terms_are_refused_before_anything_is_said(home: Home, tmp_path: Path) -> None:
    options = FarmOptions(repo=tmp_path, home=home, cache=tmp_path, tag="mar8", researcher="search", profile="cpu",
                          devices=(CPU,))  # fmt: skip
    assert before_start(options)[0] == "tag mar8, profile cpu, on cpu: Some CPU, 2 threads"
    with pytest.raises(UserError, match="give --budget 15 again, or start afresh with another --tag"):
        before_start(replace(options, budget=5.0))
    assert before_start(replace(options, budget=5.0, tag="mar9"))


def test_one_experiment_is_no_plural() -> None:
    summary = FarmSummary(branches=("b",), experiments=1, keeps=0, baseline=None, best=None, seconds=1.0, ended="stopped")
    assert summary_lines(summary)[1] == "1 experiment, 0 kept, on b"


def test_what_was_spent_and_what_will_fail_is_said_before_a_start(home: Home, tmp_path: Path) -> None:
    with Store.open(home.folder) as store:
        [branch] = store.branches("mar8")
        earlier = store.spent_usd("mar8")
        store.add_answer(branch.name, Usage(model="m", cost_usd=7.0, answers=1))
    options = FarmOptions(repo=tmp_path, home=home, cache=tmp_path, tag="mar8", researcher="command:claude -p", max_cost=2.0,
                          profile="cpu", devices=(CPU,))  # fmt: skip
    lines = before_start(options)
    assert any(line.startswith(f"${7.0 + earlier:.2f} of $2 spent already") for line in lines)
    assert any("warning" in line and "--permission-mode" in line for line in lines)
    quiet = before_start(replace(options, tag="mar9", researcher="search"))
    assert not any("spent already" in line or "--permission-mode" in line for line in quiet)
