"""`farm abandon`, on homes in which experiments were interrupted."""

import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.repo.branch_names import worktree_folder
from cluster.before_try import steps_to_finish
from cluster.cli import main
from cluster.command_parser import make_parser
from cluster.commands.read_home import read_history
from cluster.home import Home
from cluster.resuming import log_options, resume_lines
from results.experiment import ExperimentKind
from results.store import Store
from results.verdict import Verdict, abandoned_by_a_person
from tests.cluster.farm_samples import make_history
from tests.results.result_samples import make_experiment

BRANCH = "autoresearch/mar8"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    make_history(tmp_path / "home")
    return Home(tmp_path / "home")


def interrupt(home: Home, *numbers: int) -> None:
    with Store.open(home.folder) as store:
        for number in numbers:
            store.add_experiment(make_experiment(number, branch=BRANCH, title="an idea that hangs"))


def test_status_names_what_was_interrupted_with_the_commands_for_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(home, 3)
    with Store.open(home.folder) as store:
        for number, commit, of in ((4, "b", "mar8-0001"), (5, "a", "mar8-0000")):
            side = make_experiment(number, kind="confirm", commit=commit * 40, parents=(of,), title=f"confirm 1: {of}")
            store.add_experiment(side)
    status = ["status", "--home", str(home.folder)]
    told: dict[str, list[str]] = {}
    for command in ("run", "try"):
        log_options(home, "mar8", "--line-price=0.1", command=command)
        assert main(status) == 0
        told[command] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("interrupted: ")]
        idea, confirmation = (re.findall(r"`.*?farm (.*?)`", line) for line in told[command])
        finishes, drops = (make_parser().parse_args(shlex.split(words)) for words in idea)
        assert (finishes.command, finishes.tag, finishes.line_price) == (command, "mar8", 0.1)
        assert (drops.command, drops.id, drops.home) == ("abandon", "mar8-0003", str(home.folder))
        assert make_parser().parse_args(shlex.split(confirmation[0])).name == "mar8-0001"
        [both] = [line for line in told[command] if "confirm 1" in line]
        assert "mar8-0004" in both and "mar8-0005" in both and both.count("0 runs measured") == 2
    assert main([*status, "--json"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["interrupted"]] == ["mar8-0003", "mar8-0004", "mar8-0005"]
    with home.lock():
        assert main(status) == 0
    assert "interrupted: " not in capsys.readouterr().out
    [resume] = resume_lines(home, read_history(home), [BRANCH])
    resumes = make_parser().parse_args(shlex.split(resume.partition("farm ")[2]))
    assert (resumes.command, resumes.tag) == ("try", "mar8") and resume_lines(home, read_history(home), ["none"]) == []


def test_only_an_ideas_train_py_is_to_be_brought_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the try that finishes it, where another edit is there; a baseline or a merge runs whatever the file holds."""
    repo = tmp_path / "repo"
    (repo / "research").mkdir(parents=True)
    (repo / "program.md").write_text("")
    (repo / "research" / "train.py").write_text("DEPTH = 4\n")
    for words in (("init", "-b", BRANCH), ("add", "-A"), ("-c", "user.name=T", "-c", "user.email=t@x", "commit", "-m", "x")):
        subprocess.run(["git", "-C", str(repo), *words], check=True, capture_output=True)
    commit = subprocess.run(["git", "-C", str(repo), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    monkeypatch.chdir(repo)
    kinds: tuple[ExperimentKind, ...] = ("manual", "baseline", "merge")
    for kind in kinds:
        one = make_experiment(3, branch=BRANCH, kind=kind, commit=commit.stdout.strip())
        (repo / "research" / "train.py").write_text("DEPTH = 4\n")
        assert steps_to_finish(Home(tmp_path / "home"), one) == []
        (repo / "research" / "train.py").write_text("DEPTH = 5\n")
        assert steps_to_finish(Home(tmp_path / "home"), one) == [], "a commit by hand, which is on the branch, stays"
        off_branch = replace(one, branch="autoresearch/other")
        steps = steps_to_finish(Home(tmp_path / "home"), off_branch)
        assert [" switch " in step for step in steps][:1] == [True]
        assert any(f"--source=refs/experiments/{one.id}" in step for step in steps) == (kind == "manual")


def test_a_loops_branch_is_resumed_by_farm_run_whatever_was_refused_since(home: Home) -> None:
    """`farm try` can't take a branch that has a worktree in the home."""
    log_options(home, "mar8", "--line-price=0.1", command="run")
    log_options(home, "mar8", "--line-price=0.2", command="try")
    worktree_folder(home.folder, BRANCH).mkdir(parents=True)
    [resume] = resume_lines(home, read_history(home), [BRANCH])
    resumes = make_parser().parse_args(shlex.split(resume.partition("farm ")[2]))
    assert (resumes.command, resumes.line_price) == ("run", 0.1)


def test_an_interrupted_experiment_is_recorded_as_abandoned(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(home, 3)
    assert main(["abandon", "--home", str(home.folder)]) == 0
    said = capsys.readouterr().out
    assert "mar8-0003" in said and "an idea that hangs" in said and "refs/experiments/mar8-0003" in said
    with Store.open(home.folder) as store:
        assert store.unfinished(BRANCH) == []
        verdict = store.record("mar8-0003").verdict
        assert isinstance(verdict, Verdict) and verdict.decision == "lost" and "abandoned" in verdict.reason
        assert not store.record("mar8-0003").is_done


def test_which_one_is_asked_for(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    at_home = ["--home", str(home.folder)]
    assert main(["abandon", *at_home]) == 2
    assert "nothing to abandon" in capsys.readouterr().err
    interrupt(home, 3, 4)
    for arguments in ([], ["mar8-0001"]):
        assert main(["abandon", *arguments, *at_home]) == 2
        said = capsys.readouterr().err
        assert "mar8-0003, mar8-0004" in said and len(said.splitlines()) == 1
    assert main(["abandon", "mar8-0004", *at_home]) == main(["abandon", *at_home]) == 0


SIDES = ((3, "b", "confirm 1: mar8-0001 under 2 fresh seeds"), (4, "a", "confirm 1: the baseline under 2 fresh seeds"))


def confirming(home: Home, sides: tuple[tuple[int, str, str], ...] = SIDES) -> None:
    """A confirmation that was cut off."""
    with Store.open(home.folder) as store:
        for number, commit, title in sides:
            parents = ("mar8-0001" if commit == "b" else "mar8-0000",)
            store.add_experiment(make_experiment(number, kind="confirm", commit=commit * 40, parents=parents, title=title))


@pytest.mark.parametrize("name", [[], ["mar8-0003"], ["mar8-0004"]])
def test_abandoning_one_half_of_a_confirmation_abandons_both(
    home: Home, name: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    confirming(home)
    confirming(
        home, ((5, "b", "confirm 2: mar8-0001 under 2 fresh seeds"), (6, "a", "confirm 2: the baseline")) if name else ()
    )
    assert main(["abandon", *name, "--home", str(home.folder)]) == 0
    said = capsys.readouterr().out
    assert "mar8-0003" in said and "mar8-0004" in said and len(said.splitlines()) == 1
    with Store.open(home.folder) as store:
        assert all(store.record(f"mar8-000{number}").is_abandoned for number in (3, 4))
        assert all(store.record(f"mar8-000{number}").verdict is None for number in ((5, 6) if name else ()))


def test_a_half_that_an_older_farm_left_is_named_and_can_be_abandoned(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    confirming(home)
    with Store.open(home.folder) as store:
        store.add_verdict("mar8-0003", abandoned_by_a_person())
    assert main(["status", "--home", str(home.folder)]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("interrupted: ")]
    assert "mar8-0004" in line and "finishes" not in line and "farm abandon" in line
    assert main(["abandon", "--home", str(home.folder)]) == 0
    with Store.open(home.folder) as store:
        assert store.record("mar8-0004").is_abandoned


def test_a_running_farm_and_a_home_without_one_are_left_alone(home: Home, capsys: pytest.CaptureFixture[str],
                                                             tmp_path: Path) -> None:  # fmt: skip
    interrupt(home, 3)
    for name in ([], ["mar8-0003"], ["nope"]):
        with home.lock():
            assert main(["abandon", *name, "--home", str(home.folder)]) == 2
        said = capsys.readouterr().err
        assert "already running" in said and "(mar8-0003)" in said and "farm stop" in said
        assert len(said.splitlines()) == 1 and "takes one of" not in said
    assert main(["abandon", "--home", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
