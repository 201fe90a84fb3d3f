"""A home as a archive: what goes in, that it comes out, and what is refused."""

import base64
import contextlib
import io
import tarfile
import threading
import time
from pathlib import Path

import pytest

from agent.repo.worktree import Worktree
from cluster.cli import main
from cluster.home import Home
from cluster.ray_cluster.home_archive import END, pack, print_archive, printed_archive, repositories_of, unpack
from cluster.ray_cluster.home_archive import main as archive_main
from research.errors import UserError
from results.journal import read_journal
from tests.cluster.home_samples import BRANCH, add_experiment, make_checkout, make_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "farm")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where people fetch to."""
    folder = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FARM_HOME", raising=False)
    return folder


def packed(home: Home, *, compress: bool = True) -> io.BytesIO:
    file = io.BytesIO()
    pack(home, file, compress=compress)
    file.seek(0)
    return file


def names(file: io.BytesIO) -> set[str]:
    with tarfile.open(fileobj=file) as archive:
        return set(archive.getnames())


def test_what_an_archive_holds(home: Home) -> None:
    assert names(packed(home)) == {
        *("journal.jsonl", "branches-1.bundle", "history.parquet", "logs/farm.log.jsonl"),
        *("worktrees/mar8/results.tsv", "worktrees/mar8/progress.png"),
        *(f"runs/mar8-0001-1/{name}" for name in ("train.py", "run.log", "result.json")),
    }


def test_fetched_from_a_disk_it_is_a_home(home: Home, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--home", str(home.folder)]) == 0
    said = capsys.readouterr().out
    assert f"branches: {BRANCH}; 2 new experiments" in said
    assert "--home results/fetched/farm" in said
    for command in (["report"], ["diff"], ["show", "1"], ["sql", "SELECT title FROM history"], ["apply"]):
        assert main([*command, "--home", "results/fetched/farm"]) == 0
    shown = capsys.readouterr().out
    assert "2 experiments: 1 kept, 1 discarded" in shown
    assert "+DEPTH = 5" in shown
    assert (checkout / "research/train.py").read_text() == "DEPTH = 5\n"
    assert {path.name for path in (checkout / "results/fetched").iterdir()} == {"farm"}


def test_fetched_again_it_is_replaced_whole(home: Home, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--home", str(home.folder)]) == 0
    assert main(["sql", "SELECT 1", "--home", "results/fetched/farm"]) == 0  # leaves a DuckDB of the old journal
    add_experiment(home, 3)
    (checkout / "results/fetched/farm/leftover").touch()
    assert main(["fetch", "--home", str(home.folder)]) == 0
    capsys.readouterr()
    assert main(["sql", "SELECT count(*) AS n FROM experiments", "--json", "--home", "results/fetched/farm"]) == 0
    assert "[[4]]" in capsys.readouterr().out
    assert not (checkout / "results/fetched/farm/leftover").exists()
    with Home(checkout / "results/fetched/farm").lock():
        assert main(["fetch", "--home", str(home.folder)]) == 2
    assert "A farm is already running on" in capsys.readouterr().err


def test_packed_while_the_journal_is_written(home: Home, tmp_path: Path) -> None:
    """Each archive's journal is whole lines, however often it is taken in the middle of one."""
    line = home.journal.read_bytes().splitlines(keepends=True)[0]
    done = threading.Event()

    def write() -> None:
        with home.journal.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(line[:20])
                time.sleep(0.001)
                file.write(line[20:])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(10):
            unpack(packed(home, compress=False), tmp_path / str(number))
            journal = (tmp_path / str(number) / "journal.jsonl").read_bytes()
            assert journal.endswith(b"\n")
            assert len(list(read_journal(tmp_path / str(number) / "journal.jsonl"))) == journal.count(b"\n")
    finally:
        done.set()
        writer.join()


def test_repositories_are_found_by_record_by_place_and_by_worktree(home: Home, checkout: Path, tmp_path: Path) -> None:
    assert repositories_of(home) == [home.folder / "repository"]
    home.record_repository(checkout)
    home.record_repository(checkout)
    assert home.repositories_json.read_text().count("checkout") == 1
    assert set(repositories_of(home)) == {home.folder / "repository", checkout}
    old = Home(tmp_path / "old").create()
    worktree = Worktree.create(checkout, old.worktrees / "apr1", "autoresearch/apr1")
    assert repositories_of(old) == [worktree.folder]
    moved = home.folder.rename(tmp_path / "moved")
    assert moved / "repository" in repositories_of(Home(moved))


def test_printed_and_read_back(home: Home) -> None:
    out = io.StringIO()
    print_archive(home, out)
    content = printed_archive(f"warning: something\n{out.getvalue()}something after it\n")
    assert "journal.jsonl" in names(io.BytesIO(content))


def test_what_was_damaged_on_the_way_is_refused(home: Home) -> None:
    out = io.StringIO()
    print_archive(home, out)
    lines = out.getvalue().splitlines()
    assert len(lines) > 3 and END in lines
    for damaged in (lines[:2] + lines[3:], [*lines[:2], base64.b64encode(b"x" * 30).decode(), *lines[3:]], [*lines[:2], END]):
        with pytest.raises(UserError, match="SHA-256"):
            printed_archive("\n".join(damaged) + "\n")
    with pytest.raises(UserError, match="fetch again"):
        printed_archive("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="On the cluster: Nothing is recorded in /x"):
        printed_archive("Running entrypoint\nfarm: Nothing is recorded in /x\n")


def test_a_home_that_is_not_there_is_said_to_whoever_reads_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["archive", "--home=/there/is/none"])
    assert archive_main() == 2
    with pytest.raises(UserError, match="On the cluster: Nothing is recorded in /there/is/none"):
        printed_archive(capsys.readouterr().err)


@pytest.mark.parametrize(
    "member",
    [
        {"name": "../journal.jsonl"},
        {"name": "runs/../../x"},
        {"name": "/tmp/x"},
        {"name": "link", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": "link", "type": tarfile.LNKTYPE, "linkname": "journal.jsonl"},
        {"name": "device", "type": tarfile.CHRTYPE},
        {"name": "folder", "type": tarfile.DIRTYPE},
    ],
)
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, member: dict[str, str]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo()
        for name, value in member.items():
            setattr(info, name, value)
        archive.addfile(info)
    file.seek(0)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="farm"):
        unpack(file, tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_cannot_be_fetched_is_one_line(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    cases = {
        "results/data": ["--home", "results/data"],
        "--home": ["--home", "~"],
        f"{tmp_path / 'elsewhere'} on this machine holds no farm": ["--home", str(tmp_path / "elsewhere")],
        "http://127.0.0.1:1": ["--home", "/tmp/there-is-no-such-home", "--address", "http://127.0.0.1:1"],
        "ray://127.0.0.1:10001": ["--address", "ray://127.0.0.1:10001"],
    }
    for says, options in cases.items():
        assert main(["fetch", *options]) == 2
        error = capsys.readouterr().err
        assert (error.startswith("farm: "), error.count("\n"), says in error) == (True, 1, True)
    with contextlib.chdir(tmp_path / "elsewhere"):
        assert main(["fetch"]) == 2
    assert "no git checkout here" in capsys.readouterr().err
