"""A farm on one machine after another: what is packed on one goes on on the next, and nothing of either is lost."""

import os
import subprocess
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.home import Home
from tests.cluster.home_samples import BRANCH, add_experiment, make_checkout, make_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "farm")


@pytest.fixture
def file(home: Home, tmp_path: Path) -> Path:
    """What `farm pack` wrote of the home."""
    assert main(["pack", str(tmp_path / "night.tar.xz"), "--home", str(home.folder)]) == 0
    return tmp_path / "night.tar.xz"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The usual home of a checkout on another machine."""
    folder = make_checkout(tmp_path / "elsewhere")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FARM_HOME", raising=False)
    return Home(folder / "results" / "data")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_history_and_branches_come_out_elsewhere(home: Home, file: Path, elsewhere: Home) -> None:
    assert main(["unpack", str(file)]) == 0
    assert elsewhere.journal.read_bytes() == home.journal.read_bytes()
    assert git(Path.cwd(), "rev-parse", BRANCH) == git(home.folder / "repository", "rev-parse", BRANCH)
    assert elsewhere.repositories() == [Path.cwd()]


def test_a_later_file_goes_on_where_an_earlier_one_was_worked_with(home: Home, file: Path, elsewhere: Home) -> None:
    """The branch is checked out in the home that it goes on from, where a person has edited, and a model was saved."""
    assert main(["unpack", str(file)]) == 0
    worktree = elsewhere.worktrees / "mar8"
    git(Path.cwd(), "worktree", "add", "--quiet", "--force", str(elsewhere.worktrees / "own"), BRANCH)
    (elsewhere.worktrees / "own" / "research" / "train.py").write_text("DEPTH = 9\n")
    model = elsewhere.runs / "mar8-0001-1" / "model.safetensors"
    model.write_text("weights")
    add_experiment(home, 3)
    git(home.worktrees / "mar8", "commit", "--quiet", "--allow-empty", "-m", "another keep")
    assert main(["pack", str(file), "--home", str(home.folder)]) == 0
    assert main(["unpack", str(file)]) == 0
    assert elsewhere.journal.read_bytes() == home.journal.read_bytes()
    assert git(Path.cwd(), "rev-parse", BRANCH) == git(home.folder / "repository", "rev-parse", BRANCH)
    assert model.read_text() == "weights"
    parked = git(Path.cwd(), "for-each-ref", "--format=%(refname)", "refs/parked")
    assert "DEPTH = 9" in git(Path.cwd(), "show", f"{parked}:research/train.py")
    assert (worktree / "results.tsv").is_file() and not (elsewhere.worktrees / "own").exists()


def test_records_that_the_file_lacks_are_never_replaced(
    home: Home, file: Path, elsewhere: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", str(file)]) == 0
    add_experiment(elsewhere, 3)
    before = elsewhere.journal.read_bytes()
    add_experiment(home, 4)
    add_experiment(home, 5)
    assert main(["pack", str(file), "--home", str(home.folder)]) == 0
    assert main(["unpack", str(file)]) == 2
    assert "--home" in capsys.readouterr().err
    assert elsewhere.journal.read_bytes() == before
    assert main(["unpack", str(file), "--home", "beside"]) == 0
    assert Home(Path.cwd() / "beside").journal.read_bytes() == home.journal.read_bytes()


def test_while_a_farm_runs_there_nothing_is_unpacked(file: Path, elsewhere: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack", str(file)]) == 0
    with elsewhere.lock():
        assert main(["unpack", str(file)]) == 2
    assert "already running" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no archive", "half"])
def test_what_is_no_packed_home_is_one_line(
    content: object, file: Path, elsewhere: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        os.truncate(file, file.stat().st_size // 2)
    capsys.readouterr()
    assert main(["unpack", str(file)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "fetch" not in said, "no farm fetch is meant here"
    assert "pack the home again" not in said or f"farm pack {file.name}" in said, "a command that can be typed"
    assert not elsewhere.folder.exists() and not list(elsewhere.folder.parent.glob(".unpacked-*"))


def test_what_cannot_be_packed_or_written_is_one_line(
    home: Home, elsewhere: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", "night.tar.xz"]) == 2
    assert "Nothing is recorded" in capsys.readouterr().err
    assert main(["pack", "missing/night.tar.xz", "--home", str(home.folder)]) == 2
    assert "missing/night.tar.xz" in capsys.readouterr().err
    assert not list(Path.cwd().glob(".night*"))


def test_a_file_in_a_folder_that_is_not_there_is_refused_and_the_folder_is_not_made(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "unmounted" / "night.tar"
    assert main(["pack", str(file), "--home", str(home.folder)]) == 2
    assert str(file) in capsys.readouterr().err and not file.parent.exists()
    file.parent.mkdir()
    assert main(["pack", str(file), "--home", str(home.folder)]) == 0
    assert list(file.parent.iterdir()) == [file] and file.stat().st_mode & 0o077 == 0


def test_no_file_of_the_home_or_of_a_person_is_replaced(
    home: Home, elsewhere: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By none of the commands that write a file where they are told to."""
    (tmp_path / "notes.tar.xz").write_text("of a person")
    tracked = Path.cwd() / "program.md"
    before = home.journal.read_bytes()
    at = ("--home", str(home.folder))
    for words in (
        ("pack", str(home.journal)),
        ("pack", str(tmp_path / "notes.tar.xz")),
        ("pack", str(tracked)),
        ("sql", "SELECT 1", "--format", "csv", "--output", str(home.journal)),
        ("sql", "SELECT 1", "--output", str(tracked)),
        ("report", "--html", str(home.journal)),
        ("report", "--html", str(tmp_path / "same.png"), "--card", str(tmp_path / "same.png")),
    ):
        capsys.readouterr()
        assert main([*words, *at]) == 2, words
        assert len(capsys.readouterr().err.splitlines()) == 1
    for words in (("report", "--html"), ("report", "--card"), ("sql", "SELECT 1", "--format", "csv", "--output")):
        assert main([*words, str(tmp_path), *at]) == 2 and "is a folder" in capsys.readouterr().err, words
    assert home.journal.read_bytes() == before and tracked.read_text() == "policy\n"
    assert (tmp_path / "notes.tar.xz").read_text() == "of a person" and not (tmp_path / "same.png").exists()
    assert main(["sql", "SELECT 1", "--output", str(tmp_path / "own.csv"), *at]) == 0
    assert main(["sql", "SELECT 2", "--output", str(tmp_path / "own.csv"), *at]) == 0


def test_a_tag_that_was_unpacked_can_be_cleaned(file: Path, elsewhere: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Its worktree is a folder that git doesn't know, with nothing but a loop's files."""
    assert main(["unpack", str(file)]) == 0
    (Path.cwd() / "of-the-checkout").touch()
    capsys.readouterr()
    assert main(["clean", "mar8", "--yes"]) == 0, capsys.readouterr().err
    assert not (elsewhere.worktrees / "mar8").exists()


def test_a_clone_takes_a_file_without_the_commits_that_it_has(
    home: Home, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is smaller, and refused where those commits are missing. A commit that has the whole of a branch is refused, too."""
    repository = home.folder / "repository"
    first = git(repository, "rev-list", "--max-parents=0", BRANCH).splitlines()[0]
    small = tmp_path / "small.tar.xz"
    assert main(["pack", str(small), "--without-runs", "--since", first, "--home", str(home.folder)]) == 0
    assert small.stat().st_size < file.stat().st_size
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    make_checkout(tmp_path / "stranger")
    for folder, status in (("clone", 0), ("stranger", 2)):
        monkeypatch.chdir(tmp_path / folder)
        assert main(["unpack", str(small), "--home", str(tmp_path / f"{folder}-home")]) == status
    assert "lacks commits" in capsys.readouterr().err
    unpacked = Home(tmp_path / "clone-home")
    assert unpacked.journal.read_bytes() == home.journal.read_bytes() and not unpacked.runs.exists()
    assert git(tmp_path / "clone", "rev-parse", BRANCH) == git(repository, "rev-parse", BRANCH)
    for wrong in (BRANCH, "no-such-commit"):
        assert main(["pack", str(small), "--since", wrong, "--home", str(home.folder)]) == 2
        said = capsys.readouterr().err
        assert wrong in said and "Traceback" not in said
