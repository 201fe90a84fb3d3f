"""The results.tsv of a person's checkout follows what is decided elsewhere."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.repo.branch_log import experiment_commits
from agent.repo.branch_names import worktree_folder
from cluster.cli import main
from cluster.home import Home
from cluster.results_files import update_results_tsv
from results import tsv
from results.store import Store
from results.tsv import HEADER, write_results_tsv
from tests.cluster.farm_samples import make_history

BRANCH = "autoresearch/mar8"
MINE = "ddddddd\t3.100000\t0.7\tdiscard\ttried by hand"


@pytest.mark.parametrize(
    ("rows", "is_updated"),
    [([f"{'b' * 7}\t2.500000\t0.1\tkeep\told", MINE], True), ([f"{'a' * 7}\t3.000000\t0.1\tkeep\tbaseline", MINE], False)],
    ids=["with an idea of the branch", "with no more than a baseline, which branches share"],
)
def test_a_checkout_on_no_branch_of_the_farm_keeps_the_rows_of_one_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], is_updated: bool
) -> None:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(checkout)], check=True)
    (checkout / "results.tsv").write_text("\n".join([HEADER, *rows]) + "\n")
    make_history(home)
    monkeypatch.chdir(checkout)
    with Store.open(home) as store:
        assert update_results_tsv(Home(home), store, BRANCH) == []
    table = (checkout / "results.tsv").read_text()
    assert MINE in table and ("ccccccc" in table) == is_updated


def test_rows_by_hand_of_two_checkouts_stay_each_where_it_is_and_are_named_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the farm's worktree and in a checkout, after what each of them is written by; also by another branch's table."""
    checkout, home = tmp_path / "checkout", Home(tmp_path / "home")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", BRANCH, str(checkout)], check=True)
    make_history(home.folder)
    home.record_repository(checkout)
    worktree = worktree_folder(home.folder, BRANCH)
    worktree.mkdir(parents=True)
    notes = {worktree: [MINE, "# a note"], checkout: [MINE.replace("ddddddd", "eeeeeee"), MINE.replace("ddddddd", "fffffff")]}
    for folder, rows in notes.items():
        (folder / "results.tsv").write_text("\n".join([HEADER, *rows]) + "\n")
    monkeypatch.chdir(checkout)
    with Store.open(home.folder) as store:
        for _ in range(2):
            assert update_results_tsv(home, store, BRANCH) == []
        write_results_tsv(checkout / "results.tsv", [], others=store.records(BRANCH))
        assert update_results_tsv(home, store, BRANCH) == []
    for folder, rows in notes.items():
        lines = (folder / "results.tsv").read_text().splitlines()
        assert [line for line in lines if line in rows] == rows and "ccccccc" in "".join(lines)
    told = []
    for command in ("status", "report"):
        assert main([command, "--home", str(home.folder)]) == 0
        told.append([line for line in capsys.readouterr().out.splitlines() if "by hand or" in line])
    assert told[0] == told[1] and len(told[0]) == 2
    assert any(f"1 row of {worktree}/results.tsv is " in line for line in told[0])
    assert any(f"2 rows of {checkout}/results.tsv are " in line for line in told[0])


def test_rows_of_another_home_in_the_same_checkout_are_not_called_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Git has the commits of its experiments. A person's row stays one, also of a commit that the farm has."""
    checkout, home = tmp_path / "checkout", Home(tmp_path / "home")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(checkout)], check=True)
    git = ["git", "-C", str(checkout), "-c", "user.name=T", "-c", "user.email=t@localhost"]
    for subject in ("their baseline", "theirs"):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", subject], check=True)
    listed = subprocess.run([*git, "rev-list", "HEAD"], check=True, capture_output=True, text=True).stdout
    commit, baseline = listed.split()
    make_history(home.folder)
    home.record_repository(checkout)
    theirs = "\n".join(f"{one[:7]}\t3.100000\t0.7\tkeep\ttheirs" for one in (baseline, commit))
    again = f"{'a' * 7}\t3.300000\t0.7\tdiscard\tonce more"
    (checkout / "results.tsv").write_text("\n".join([HEADER, theirs, MINE, again]) + "\n")
    monkeypatch.chdir(tmp_path)

    def told() -> list[str]:
        assert main(["status", "--home", str(home.folder)]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if str(checkout / "results.tsv") in line]

    assert len(told()) == 1 and told()[0].startswith("4 rows ") and "by hand" in told()[0]
    subprocess.run([*git, "update-ref", "refs/experiments/apr1-0001", commit], check=True)
    by_hand, elsewhere = told()
    assert by_hand.startswith("2 rows ") and elsewhere.startswith("2 rows ") and "another home" in elsewhere
    own = frozenset({commit})
    assert not experiment_commits(checkout, but_for=own), "what a home's own experiment was made on is no other home's"
    (checkout / "results.tsv").write_text(f"{HEADER}\n{theirs}\n")
    assert len(told()) == 1 and "by hand" not in told()[0]


def test_a_row_that_somebody_adds_while_the_table_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_history(tmp_path / "home")
    path, merged = tmp_path / "results.tsv", tsv._merged
    path.write_text(f"{HEADER}\n")
    added: list[str] = []

    def adding(*arguments: Any, **named: Any) -> list[str]:
        lines = merged(*arguments, **named)
        if not added:
            added.append(MINE)
            with path.open("a") as file:
                file.write(f"{MINE}\n")
        return lines

    monkeypatch.setattr(tsv, "_merged", adding)
    with Store.open(tmp_path / "home") as store:
        write_results_tsv(path, store.records(BRANCH))
    assert MINE in path.read_text().splitlines() and "ccccccc" in path.read_text()
