"""results.tsv where people have written into it, too."""

from dataclasses import replace
from pathlib import Path

import pytest

from results.experiment import ExperimentKind, ExperimentRecord, Verdict
from results.tsv import HEADER, write_results_tsv
from tests.results.result_samples import make_experiment, make_run


def make(number: int, val_bpb: float, *more: float, decision: str = "keep", title: str = "") -> ExperimentRecord:
    experiment = make_experiment(number, title=title or f"idea {number}")
    runs = tuple(make_run(f"r{number}-{index}", score) for index, score in enumerate((val_bpb, *more)))
    return ExperimentRecord(experiment=experiment, runs=runs, verdict=Verdict(decision=decision, reason="said"))  # type: ignore[arg-type]


def rows_of(tmp_path: Path, *records: ExperimentRecord) -> list[str]:
    """The rows that these records have in a file of their own."""
    (tmp_path / "own").unlink(missing_ok=True)
    write_results_tsv(tmp_path / "own", records)
    return (tmp_path / "own").read_text().splitlines()[1:]


MINE = "91e5c70\t0.000000\t0.0\tcrash\twidth doubled: out of memory"
NOTES = ["", "Notes: try a larger window next.", "\tindented\tand\twith tabs"]


def test_what_a_person_wrote_stays_where_it_is(tmp_path: Path) -> None:
    path, records = tmp_path / "results.tsv", [make(0, 1.5), make(1, 1.4)]
    first, second = rows_of(tmp_path, *records)
    path.write_text("\n".join(["# night of March 8", HEADER, first, MINE, *NOTES]) + "\n")
    assert write_results_tsv(path, records) is None
    assert path.read_text().splitlines() == ["# night of March 8", HEADER, first, MINE, second, *NOTES]
    before = path.read_bytes()
    write_results_tsv(path, records)
    assert path.read_bytes() == before


def test_a_row_follows_its_record(tmp_path: Path) -> None:
    """Another run and another decision change the row that is there; a person's result of the same commit is another row."""
    path = tmp_path / "results.tsv"
    write_results_tsv(path, [make(0, 1.5), make(1, 1.4, decision="discard")])
    by_hand = path.read_text().splitlines()[2].replace("1.400000", "1.390000")
    path.write_text(path.read_text() + by_hand + "\n")
    now = [make(0, 1.5), make(1, 1.4, 1.2)]
    write_results_tsv(path, now)
    assert path.read_text().splitlines() == [HEADER, *rows_of(tmp_path, *now), by_hand]
    assert "1.300000" in rows_of(tmp_path, *now)[1]


def test_rows_of_another_branch_leave_the_table_and_a_persons_stay(tmp_path: Path) -> None:
    path, one = tmp_path / "results.tsv", [make(0, 1.5), make(1, 1.4, 1.2)]
    other = [replace(make(2, 1.3), experiment=make_experiment(2, branch="autoresearch/two", title="of another tag"))]
    write_results_tsv(path, [one[0], make(1, 1.4)])
    path.write_text(path.read_text() + MINE + "\n")
    write_results_tsv(path, other, others=one)
    assert path.read_text().splitlines() == [HEADER, MINE, *rows_of(tmp_path, *other)]
    write_results_tsv(path, one, others=other)
    baseline, idea = rows_of(tmp_path, *one)
    assert path.read_text().splitlines() == [HEADER, baseline, MINE, idea]


@pytest.mark.parametrize("first_is_there", [True, False])
def test_rows_that_come_back_stand_before_a_persons_of_later_commits(tmp_path: Path, first_is_there: bool) -> None:
    """After another tag a branch's rows return where readers look for them: its baseline is the first keep of the table."""
    path, records = tmp_path / "results.tsv", [make(0, 1.5), make(1, 1.4), make(2, 1.3)]
    first, second, third = rows_of(tmp_path, *records)
    of_second, of_third = (row.replace("\tidea", "\tby hand: idea") for row in (second, third))
    path.write_text("\n".join([HEADER, *([first] if first_is_there else []), MINE, of_second, *NOTES, of_third]) + "\n")
    write_results_tsv(path, records)
    top = [first, MINE] if first_is_there else [MINE, first]
    assert path.read_text().splitlines() == [HEADER, *top, of_second, *NOTES, second, of_third, third]
    before = path.read_bytes()
    write_results_tsv(path, records)
    assert path.read_bytes() == before


def test_the_baseline_again_is_called_a_control(tmp_path: Path) -> None:
    title = "baseline again: torch 2.11 -> 2.12"
    again = replace(make(3, 1.5, decision="discard"), experiment=make_experiment(3, kind="control", title=title))
    assert rows_of(tmp_path, again)[0].endswith(f"measured\tcontrol: {title}")


@pytest.mark.parametrize("kind", ["control", "confirm", "wave"])
def test_what_tries_no_idea_is_measured_here_as_in_sql(tmp_path: Path, kind: ExperimentKind) -> None:
    run = replace(make(3, 1.5, decision="discard"), experiment=make_experiment(3, kind=kind, title="wave 1: run 1 of 4"))
    assert rows_of(tmp_path, run)[0].split("\t")[3] == "measured"


@pytest.mark.parametrize("content", [b"shopping list\n", b"a,b\n1,2\n", b"\x00\x01\xff", b"commit val_bpb\nx 1\n"])
def test_a_file_that_is_no_table_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.tsv"
    for number in (1, 2):
        path.write_bytes(content)
        assert write_results_tsv(path, [make(0, 1.5)]) == tmp_path / f"results.tsv.{number}"
        assert (tmp_path / f"results.tsv.{number}").read_bytes() == content
        assert path.read_text().startswith(HEADER)


def test_a_folder_of_that_name_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "results.tsv").mkdir()
    (tmp_path / "results.tsv" / "mine").touch()
    assert write_results_tsv(tmp_path / "results.tsv", [make(0, 1.5)]) == tmp_path / "results.tsv.1"
    assert (tmp_path / "results.tsv.1" / "mine").exists()


def test_how_an_editor_saved_it_does_not_matter(tmp_path: Path) -> None:
    """Line ends of Windows, another encoding, a mark at the start, no last line end, no header, an empty file, a link."""
    path = tmp_path / "results.tsv"
    (row,) = rows_of(tmp_path, make(0, 1.5))
    mine = MINE.replace("width", "größe").encode("latin-1")
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"\r\n" + row.encode() + b"\r\n" + mine)
    write_results_tsv(path, [make(0, 1.5), make(1, 1.4)])
    lines = path.read_bytes().splitlines()
    assert lines[:2] == [HEADER.encode(), row.encode()] and mine in lines and len(lines) == 4

    path.write_text(MINE)
    write_results_tsv(path, [])
    assert path.read_text().splitlines() == [HEADER, MINE]
    path.write_text("\n")
    assert write_results_tsv(path, [make(0, 1.5)]) is None
    assert path.read_text().splitlines() == [HEADER, row]

    path.rename(tmp_path / "elsewhere.tsv")
    path.symlink_to("elsewhere.tsv")
    write_results_tsv(path, [make(0, 1.5), make(1, 1.4)])
    assert path.is_symlink() and len((tmp_path / "elsewhere.tsv").read_text().splitlines()) == 3
