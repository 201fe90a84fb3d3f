"""What `farm run` and the demo print before and after: it must be true, and its commands must work when they are pasted."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.repo.git_command import run_git
from agent.repo.repository import TRAIN_FILE, make_repository
from cluster import driver
from cluster.cli import main
from cluster.command_parser import make_parser
from cluster.commands.options import given_again, run_options, try_options
from cluster.commands.read_home import read_history
from cluster.commands.research import before_start, look_lines
from cluster.commands.start import next_lines
from cluster.display import PlainDisplay
from cluster.end_summary import FarmSummary, summary_lines
from cluster.farm_options import FarmOptions, todays_tag
from cluster.hardware import DeviceRequest
from cluster.home import Home
from cluster.known_folders import remember
from cluster.local_api import connect
from cluster.loop_researcher import agent_bounds, asked_of
from cluster.resuming import log_options, resume_lines
from research.errors import UserError
from research.files import research_folder
from results.experiment import Usage, Verdict
from results.store import Store
from tests.cluster.farm_samples import CPU, make_history
from tests.results.result_samples import make_branch, make_experiment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a short history that commands don't find by themselves, in a folder whose name a shell would split."""
    monkeypatch.delenv("FARM_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    make_history(tmp_path / "my home")
    return Home(tmp_path / "my home")


def pasted(lines: list[str]) -> list[list[str]]:
    """The words of each command among the lines, as a shell makes them."""
    commands = [found[1] for line in lines if (found := re.match(r"  (?:uv run .*?)?(?:\S*/)?farm (.*)", line))]
    return [shlex.split(command) for command in commands]


def test_commands_after_a_run_work_when_they_are_pasted(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    commands = pasted(look_lines(home))
    assert [words[0] for words in commands] == ["report", "diff", "sql"]
    for words in commands:
        assert make_parser().parse_args(words).home == str(home.folder)
    assert main(commands[0]) == main(commands[2]) == 0
    assert "autoresearch/mar8" in capsys.readouterr().out


def test_commands_after_the_demo_name_its_home(home: Home) -> None:
    commands = pasted(next_lines(home, "mar8", keeps=1))
    assert [words[0] for words in pasted(next_lines(home, "mar8", keeps=0))] == ["sql", "run"]
    assert [words[0] for words in commands] == ["sql", "diff", "run"]
    assert all(make_parser().parse_args(words).home == str(home.folder) for words in commands)
    assert main(commands[0]) == 0


def test_other_terms_are_refused_before_anything_is_said(options: FarmOptions) -> None:
    assert before_start(options)[0] == "tag mar8, profile cpu, on cpu: Some CPU, 2 threads"
    with pytest.raises(UserError, match="give --budget 15 again, or start afresh with another --tag"):
        before_start(replace(options, budget=5.0))
    assert before_start(replace(options, budget=5.0, tag="mar9"))


def test_what_a_try_cannot_do_is_refused_before_anything_is_said_or_started(
    options: FarmOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An edit that doesn't parse, with its file and line, other terms, and data that isn't there. No number is used."""
    monkeypatch.chdir(options.repo)
    monkeypatch.setattr("cluster.commands.options.detect_devices", lambda: (CPU,))
    monkeypatch.setattr("cluster.by_hand.Farm", None)
    train_py, before = options.repo / TRAIN_FILE, options.home.journal.read_bytes()
    words = ["try", "--tag", "mar8", "--profile", "cpu", "--home", str(options.home.folder), "--cache", str(options.cache)]
    cases = [
        ("DEPTH = 4\nWIDTH = = 5\n", [], (str(train_py), "line 2", "invalid syntax")),
        ("DEPTH = 4\u200b\n", [], (str(train_py), "line 1", "U+200B")),
        ("DEPTH = 5\n", ["--source", "stdlib"], ("--source",)),
        ("DEPTH = 5\n", ["--budget", "5"], ("--budget 15",)),
        ("DEPTH = 5\n", ["--tag", "mar9", "--source", "files:nothing-there"], ("nothing-there",)),
    ]
    for text, more, facts in cases:
        train_py.write_text(text)
        assert main([*words, *more]) == 2
        captured = capsys.readouterr()
        assert all(fact in captured.err for fact in facts) and len(captured.err.splitlines()) == 1 and not captured.out
    assert options.home.journal.read_bytes() == before


def test_other_terms_are_refused_before_a_cluster_is_started(options: FarmOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would have this machine's devices; what another cluster has is known only when its nodes have joined."""
    monkeypatch.setattr("cluster.ray_cluster.engine.cluster_here", lambda: None)
    monkeypatch.setattr("cluster.hardware.detect_devices", lambda: (CPU,))
    on_ray = replace(options, engine="ray")
    assert before_start(on_ray)
    for changes, fact in (
        ({"source": "stdlib"}, "--source"),
        ({"loops": 1000}, "--loops"),
        ({"requested": DeviceRequest.parse("7")}, "7"),
        ({"tag": "mar9", "source": "files:nothing-there"}, "nothing-there"),
    ):
        with pytest.raises(UserError, match=fact):
            before_start(replace(on_ray, **changes))  # type: ignore[arg-type]
    assert before_start(replace(on_ray, source="stdlib", address="10.0.0.1:6379"))


def test_one_experiment_is_no_plural() -> None:
    summary = FarmSummary(branches=("b",), experiments=1, keeps=0, baseline=None, gain=None, seconds=1.0, ended="stopped")
    assert summary_lines(summary)[1] == "1 experiment, 0 kept, on b"


def test_what_was_spent_and_what_will_fail_is_said_before_a_start(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude = tmp_path / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text("#!/bin/sh\n")
    claude.chmod(0o755)
    monkeypatch.setenv("PATH", str(claude.parent), prepend=os.pathsep)
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


@pytest.fixture
def options(home: Home, tmp_path: Path) -> FarmOptions:
    """What `farm run --tag mar8 --profile cpu` asks for in a checkout, on data that counts as prepared."""
    repo = tmp_path / "checkout"
    make_repository(repo, {"research/train.py": "DEPTH = 4\n", "program.md": "policy\n"})
    return FarmOptions(repo=repo, home=home, cache=tmp_path, tag="mar8", researcher="search", profile="cpu", devices=(CPU,))


def prepared_as(fingerprint: str) -> Any:
    """Stands in for the search for prepared data; of what it finds, only the score fingerprint is looked at."""
    return lambda *_, **__: SimpleNamespace(score_fingerprint=lambda contract: fingerprint)


def test_a_home_of_another_version_is_refused_before_anything_is_said(
    options: FarmOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.branch_start.data_if_prepared", prepared_as("5c0e"))
    assert before_start(options)
    monkeypatch.setattr("cluster.branch_start.data_if_prepared", prepared_as("another"))
    with pytest.raises(UserError, match="scores differently"):
        before_start(options)
    assert before_start(replace(options, tag="mar9"))


def test_a_branch_that_cannot_be_used_is_refused_before_anything_is_said(options: FarmOptions) -> None:
    """One that this home doesn't know, and one that is checked out where the user works."""
    run_git(options.repo, "branch", "autoresearch/other")
    with pytest.raises(UserError, match="no record of it"):
        before_start(replace(options, tag="other"))
    run_git(options.repo, "switch", "--quiet", "--create", "autoresearch/mar8")
    with pytest.raises(UserError, match="is checked out in"):
        before_start(options)


def test_a_home_in_use_and_a_researcher_that_cannot_work_are_refused_before_anything_is_said(options: FarmOptions) -> None:
    with pytest.raises(UserError, match=r"nothing\.json"):
        before_start(replace(options, researcher="scripted:nothing.json"))
    with options.home.lock(), pytest.raises(UserError, match="already running"):
        before_start(options)


def test_a_command_may_not_see_the_homes_of_farms_nor_what_runs_are_scored_on(options: FarmOptions, tmp_path: Path) -> None:
    other_home = tmp_path / "home of another farm"
    other_home.mkdir()
    remember(other_home)
    data: Any = SimpleNamespace(folder=tmp_path / "prepared", hidden_paths=("/corpus/val", str(research_folder())))
    bounds = agent_bounds(replace(options, sandbox="strict", agent_writes=(tmp_path / "mine",)), data)
    hidden = {options.home.folder, options.cache, options.repo / "results" / "data", options.repo / "results" / "fetched"}
    assert hidden | {tmp_path / "prepared", Path("/corpus/val"), other_home} <= set(bounds.hidden)
    assert research_folder() not in bounds.hidden  # or nothing would run
    assert (bounds.sandbox, bounds.writable) == ("strict", (tmp_path / "mine",))


def test_run_and_try_have_default_tags_of_their_own(home: Home) -> None:
    """`farm run` works in a worktree and `farm try` in the checkout, often under other terms: one branch can't be both."""
    run, by_hand = (make_parser().parse_args([name, "--home", str(home.folder), "--devices", "cpu"]) for name in ("run", "try"))
    tags = run_options(run).tag, try_options(by_hand).tag
    assert tags[0] == todays_tag() and tags[1] != tags[0] and tags[1].startswith(tags[0])
    named = make_parser().parse_args(["try", "--tag", "mine", "--home", str(home.folder), "--devices", "cpu"])
    assert try_options(named).tag == "mine"


def test_a_mixs_loops_ask_all_of_it_if_it_is_adaptive_by_the_users_prices(home: Home, tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text('{"m-1": {"input": 1, "output": 2}}')
    given = ["--researcher", "search:2,codex:1", "--mix", "adaptive", "--prices", str(tmp_path / "prices.json")]
    parsed = make_parser().parse_args(["run", "--home", str(home.folder), "--devices", "cpu", *given])
    options = run_options(parsed)
    data: Any = SimpleNamespace(folder=tmp_path, hidden_paths=())
    plan: Any = SimpleNamespace(branch_name="autoresearch/x", number=1, data=data)
    asked = asked_of(options, plan, loops={}, shared=())
    assert asked.name == "search:2,codex:1" and asked.prices["m-1"].output == 2.0
    fixed = asked_of(replace(options, mix="fixed"), plan, loops={}, shared=())
    assert fixed.name == "codex"
    assert set(given) <= set(shlex.split(given_again(parsed)))


def test_the_options_that_resuming_needs_are_those_that_were_given() -> None:
    """Without limits, which are logged apart, what only begins a branch, and defaults."""
    lasting = [
        "--loops",
        "2",
        "--devices",
        "cpu",
        "--engine",
        "local",
        "--share",
        "none",
        "--line-price",
        "0.0001",
        "--samples",
    ]
    lasting += ["--researcher", "command:agent -p 'a b'", "--no-start-ahead", "--cache", "/a folder"]
    lasting += ["--agent-writes", "/a folder", "--agent-writes", "~/another"]
    passing = [
        "--tag",
        "t",
        "--home",
        "/h",
        "--budget",
        "3",
        "--experiments",
        "2",
        "--hours",
        "1",
        "--dirty",
        "--recipe",
        "best",
    ]
    given = given_again(make_parser().parse_args(["run", *lasting, *passing]))
    assert make_parser().parse_args(["run", *shlex.split(given)]) == make_parser().parse_args(["run", *lasting])
    assert given_again(make_parser().parse_args(["try", "-m", "idea", "--again", "--sandbox", "off"])) == "--sandbox off"


@pytest.mark.parametrize(
    ("limits", "options", "done", "again", "is_endless"),
    [
        ({}, "", 2, [], False),
        ({"experiments": 8}, "", 2, ["--experiments", "8"], False),
        ({"experiments": 2}, "", 2, [], True),
        ({"experiments": 2}, "--researcher claude --max-cost 20", 2, ["--researcher", "claude", "--max-cost", "20"], False),
        ({"experiments": 2, "hours": 1.5}, "", 2, ["--hours", "1.5"], False),
        ({"hours": 8.0}, "", 0, ["--hours", "8"], False),
    ],
)
def test_a_hint_to_resume_keeps_the_limits_that_are_not_reached_and_says_if_none_is_left(
    limits: dict[str, Any], options: str, done: int, again: list[str], is_endless: bool, home: Home
) -> None:
    """A pasted command must not run for ever where the one before would have ended."""
    records = [make_experiment(number, branch="autoresearch/t") for number in range(done + 1)]
    with Store.open(home.folder) as store:
        store.add_branch(make_branch("autoresearch/t"))
        for experiment in records:
            store.add_experiment(experiment)
            store.add_verdict(experiment.id, Verdict(decision="discard", reason="worse"))
    log_options(home, "t", options, **limits)
    [line] = resume_lines(home, read_history(home), ["autoresearch/t"])
    words = make_parser().parse_args(shlex.split(line.partition("farm ")[2]))
    wanted = make_parser().parse_args(["run", *again])
    assert [words.experiments, words.hours, words.max_cost] == [wanted.experiments, wanted.hours, wanted.max_cost]
    assert ("until Ctrl-C" in line) == is_endless and len(line.splitlines()) == 1


def test_a_farm_answers_while_its_data_is_prepared(options: FarmOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, SQL and stop from the moment at which the home is locked, for `farm try` as for `farm run`."""
    answers: dict[str, Any] = {}

    def prepare_for_long(planner: object) -> None:
        client = connect(options.home)
        assert client is not None
        answers["status"], answers["rows"] = client.status(), client.sql("SELECT count(*) FROM history").rows
        raise UserError("seen enough")

    monkeypatch.setattr(driver.Planner, "local", prepare_for_long)
    with pytest.raises(UserError, match="seen enough"):
        driver.Farm(options, PlainDisplay(lambda line: None))
    assert answers["rows"] == ((3,),) and answers["status"]["tag"] == "mar8" and answers["status"]["devices"] == []
    assert connect(options.home) is None and options.home.holder() is None


def test_what_a_branch_starts_from_is_said_where_git_has_no_commit(options: FarmOptions, tmp_path: Path) -> None:
    """In sources without git, an edit can't be told from what was there; in a checkout that can't be written it is left out."""
    tree = tmp_path / "zip"
    (tree / "research").mkdir(parents=True)
    (tree / TRAIN_FILE).write_text("DEPTH = 4\n")
    new = replace(options, source_tree=tree, tag="mar9")
    told = {line for line in before_start(new) if str(tree) in line}
    assert len(told) == 1 and "not in a git repository" in str(told) and "git init" in str(told)
    assert not any(str(tree) in line for line in before_start(replace(new, tag="mar8")))

    run_git(tree, "init", "--quiet")
    run_git(tree, "add", TRAIN_FILE)
    run_git(tree, "-c", "user.name=T", "-c", "user.email=t", "commit", "--quiet", "--message", "start")
    assert not any(str(tree) in line for line in before_start(new))
    (tree / TRAIN_FILE).write_text("DEPTH = 5\n")
    told = {line for line in before_start(new) if str(tree) in line}
    assert len(told) == 1 and "--dirty" in str(told)
    assert not any(str(tree) in line for line in before_start(replace(new, dirty=True)))


@pytest.mark.parametrize("place", ["home", "cache"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_said(options: FarmOptions, place: str) -> None:
    """One line, which names the option; nothing has been made by then."""
    below = Path("/proc/nothing")
    refused = replace(options, tag="mar9", **{place: Home(below) if place == "home" else below})
    with pytest.raises(UserError, match=f"The {place} /proc/nothing can't be written .*--{place}") as error:
        before_start(refused)
    assert "\n" not in str(error.value)
