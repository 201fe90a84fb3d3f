"""`farm list` and `farm clean`: what they count, what they remove, and what they never touch."""

import json
import subprocess
from pathlib import Path

import pytest

from agent.repo.worktree import Worktree, branch_exists
from cluster.cli import main
from cluster.home import Home
from cluster.known_folders import remember
from results.experiment import Verdict
from results.history import read_history
from results.store import Store
from results.told import FILE as OUTLINES
from results.verdict import abandoned_by_a_person
from tests.cluster.farm_samples import make_history
from tests.results.result_samples import make_branch, make_experiment, make_run

OLD, NEW = "autoresearch/mar8", "autoresearch/mar9"


def git(repo: Path, *words: str) -> str:
    told = subprocess.run(["git", "-C", str(repo), "-c", "user.name=T", "-c", "user.email=t@x", *words], check=True,
                          capture_output=True, text=True)  # fmt: skip
    return told.stdout.strip()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with two tags, each with a worktree in a repository of the user's and with run folders."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    repo, home = tmp_path / "repo", Home(tmp_path / "home")
    (repo / "research").mkdir(parents=True)
    (repo / "research" / "train.py").write_text("DEPTH = 4\n")
    (repo / ".gitignore").write_text("results.tsv\nprogress.png\n")
    git(tmp_path, "init", "--quiet", "-b", "main", str(repo))
    git(repo, "add", "-A")
    git(repo, "commit", "--quiet", "-m", "start")
    for branch in (OLD, NEW):
        worktree = Worktree.create(repo, home.worktrees / branch.rpartition("/")[2], branch)
        (worktree.folder / "results.tsv").write_text("commit\tval_bpb\tmemory_gb\tstatus\tdescription\n")
        git(repo, "update-ref", f"refs/experiments/{branch.rpartition('/')[2]}-0002", worktree.head())
    make_history(home.folder)
    with Store.open(home.folder) as store:
        store.add_branch(make_branch(NEW, tag="mar9", group=NEW))
        baseline = make_experiment(0, branch=NEW)
        store.add_experiment(baseline)
        store.add_run(baseline.id, make_run(f"{baseline.id}-r0", 0.99))
        store.add_verdict(baseline.id, Verdict(decision="keep", reason="the baseline"))
        store.add_event("work", {"branch": NEW, "run": "x", "state": "done"})
        store.add_event("worker", {"worker": "cpu:0", "state": "joined"})
    home.record_repository(repo)
    runs = [run.run_id for history in read_history(home.journal) for record in history.records for run in record.runs]
    for run in (*runs, "of-no-record"):
        (home.runs / run).mkdir(parents=True)
        (home.runs / run / "run.log").write_text("x" * 5_000)
    remember(home.folder)
    return home


def clean(home: Home, *words: str) -> int:
    return main(["clean", "--home", str(home.folder), *words])


def runs_of(home: Home) -> set[str]:
    return {path.name for path in home.runs.iterdir()}


def test_a_list_names_every_home_tag_and_branch_with_its_disk_space(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "cache" / "prepared" / "some-data"
    data.mkdir(parents=True)
    with Store.open(home.folder) as store:  # neither counts, as in farm status
        for number in (7, 8):
            store.add_experiment(make_experiment(number, branch=OLD))
        store.add_verdict("mar8-0007", abandoned_by_a_person())
    (data / "rows.bin").write_bytes(b"x" * 100_000)
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(
        fact in shown for fact in (str(home.folder), OLD, NEW, "2 experiments, 1 kept", "some-data", "no farm is running")
    )
    with home.lock():
        assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["homes"]
    disk = {tag["tag"]: tag["disk_bytes"] for tag in one["tags"]}
    assert one["holder"] and set(disk) == {"mar8", "mar9"} and 15_000 <= disk["mar8"] < one["disk_bytes"]
    assert found["caches"][0]["data"][0][1] >= 100_000


def test_nothing_is_removed_before_somebody_agrees(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = runs_of(home)
    assert clean(home) == 0
    shown = capsys.readouterr().out
    assert "2 worktrees" in shown and "2 run folders" in shown and "--yes" in shown
    assert runs_of(home) == before and (home.worktrees / "mar8").is_dir()


def test_what_nothing_needs_is_removed_and_a_loop_makes_its_worktree_again(home: Home) -> None:
    kept, journal = home.folder.parent / "repo", home.journal.read_bytes()
    assert clean(home, "--yes") == 0
    (old,) = (history for history in read_history(home.journal) if history.branch.name == OLD)
    gone = {"of-no-record", *(run.run_id for run in old.records[2].runs)}
    assert not runs_of(home) & gone and len(runs_of(home)) == 3, "those of baselines and keeps stay"
    assert not (home.worktrees / "mar8").exists() and home.journal.read_bytes() == journal
    assert Worktree.open(kept, home.worktrees / "mar8", OLD).head() == git(kept, "rev-parse", OLD)
    assert "prunable" not in git(kept, "worktree", "list", "--porcelain")


def test_files_and_rows_of_a_person_stay(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.worktrees / "mar8" / "notes.txt").write_text("mine")
    (home.worktrees / "mar9" / "results.tsv").open("a").write("abcdefg\t0.9\t1.0\tkeep\tmine\n")
    assert clean(home, "--yes", "--worktrees") == 0
    shown = capsys.readouterr().out
    assert "notes.txt" in shown and "results.tsv" in shown
    assert (home.worktrees / "mar8" / "notes.txt").is_file() and (home.worktrees / "mar9" / "results.tsv").is_file()
    assert clean(home, "--yes", "mar8") == 2 and "notes.txt" in capsys.readouterr().err


def test_a_named_tag_goes_with_all_that_it_has_and_can_be_put_back(home: Home, tmp_path: Path) -> None:
    repo, lines = tmp_path / "repo", home.journal.read_bytes().splitlines()
    commit = git(repo, "rev-parse", OLD)
    read_history(home.journal, fewest=1)
    assert b"mar8-0000" in (home.folder / OUTLINES).read_bytes()
    assert clean(home, "--yes", "mar8") == 0
    assert not (home.folder / OUTLINES).exists(), "no cache has its texts"
    assert [history.branch.tag for history in read_history(home.journal)] == ["mar9"]
    assert not branch_exists(repo, OLD) and branch_exists(repo, NEW)
    assert git(repo, "for-each-ref", "--format=%(refname)", "refs/experiments") == "refs/experiments/mar9-0002"
    assert not (home.worktrees / "mar8").exists() and (home.worktrees / "mar9").exists() and "of-no-record" in runs_of(home)
    removed = home.folder / "removed"
    rest, taken = home.journal.read_bytes().splitlines(), (removed / "mar8.jsonl").read_bytes().splitlines()
    assert sorted(rest + taken) == sorted(lines) and len(taken) > 5 and b'"worker"' in rest[-1]
    git(repo, "fetch", "--quiet", str(removed / "mar8.bundle"), f"{OLD}:{OLD}")
    assert git(repo, "rev-parse", OLD) == commit
    with Store.open(home.folder) as store:
        assert store.query("SELECT DISTINCT tag FROM history").rows == (("mar9",),)


def test_a_running_farms_things_a_checked_out_branch_and_an_unknown_tag_are_refused(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (home.journal.read_bytes(), runs_of(home))
    with home.lock():
        assert clean(home, "--yes") == 2
        other = tmp_path / "other"
        make_history(other)
        assert clean(Home(other), "--yes", "--data") == 2, "it may read that data"
    assert str(home.folder) in capsys.readouterr().err
    assert clean(home, "--yes", "mar7") == 2 and "mar8, mar9" in capsys.readouterr().err
    git(tmp_path / "repo", "worktree", "remove", "--force", str(home.worktrees / "mar8"))
    git(tmp_path / "repo", "switch", "--quiet", OLD)
    assert clean(home, "--yes", "mar8") == 2 and "checked out" in capsys.readouterr().err
    assert (home.journal.read_bytes(), runs_of(home)) == before
