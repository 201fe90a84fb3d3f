"""Autopsies of results.tsv files: whatever their shape, every line is accounted for; and what such a file really found."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli import main
from research.errors import UserError
from results.autopsy import autopsy_lines, examine
from results.experiment import ExperimentRecord, Verdict
from results.foreign_tsv import LARGEST_FILE, ForeignFile, parse_foreign, read_foreign
from results.own_table import own_rows, with_own_kinds
from tests.results.result_samples import make_experiment, make_run

MESSY = """\ufeffCommit\tVAL_BPB\tMemory_GB\tStatus\tDescription
baseline\t0.997900\t44.0\tkeep\tbaseline
a1\t0.986000\t43.9\tKEEP\thalve the batch
a2\t0.986900\t43.9\tDiscard\tadd warm-up
a2\t0.986900\t43.9\tDiscard\tadd warm-up
\tinf\t0.0\tCRASH\ta hash is missing
a4\t0.000000\t0.0\tcrash\ttoo large
Commit\tVAL_BPB\tMemory_GB\tStatus\tDescription

a5\t0.985800\t43.9\tkeep\ta small gain

exp\tstatus\tval_bpb\tdelta\tsteps\tparams\tmfu\tnotes\tseed
a6\trejected (worse)\t0.985900\t-0.1\t900\t50M\t40\twider\t42
a7\taccepted\t0.985000\t0.8\t900\t50M\t40\tdeeper\t42
a8\taccepted\tn/a
a9\tpending\t0.98\t\t\t\t\tundecided\t42
what is this
"""


def lines_of(file: ForeignFile) -> list[int]:
    return sorted([*(row.line for row in file.rows), *(line.line for line in file.unreadable), *file.headers])


def night(ideas: int, *, sigma: float, seed: int) -> tuple[str, float]:
    """A greedy night's results.tsv, and what it truly gained."""
    rng = np.random.default_rng(seed)
    best, gain = 1.0, 0.0
    lines = ["commit\tval_bpb\tmemory_gb\tstatus\tdescription", f"base\t{best:.6f}\t1.0\tkeep\tbaseline"]
    for number in range(ideas):
        effect = rng.choice([0.0, 0.002, -0.003], p=[0.6, 0.1, 0.3]) + 0.0002 * rng.standard_normal()
        score = 1.0 - gain - effect + sigma * rng.standard_normal()
        status = "keep" if score < best else "discard"
        if status == "keep":
            best, gain = score, gain + effect
        lines.append(f"c{number}\t{score:.6f}\t1.0\t{status}\tidea {number}")
    return "\n".join(lines) + "\n", gain


def test_a_messy_file_is_read_row_by_row() -> None:
    file = parse_foreign(MESSY)
    assert [row.status for row in file.rows] == [
        *("keep", "keep", "discard", "discard", "crash", "crash", "keep", "discard", "keep")
    ]
    assert file.rows[-1].description == "deeper" and file.rows[-1].score == 0.985 and file.rows[4].commit == ""
    assert file.headers == (1, 8, 12) and file.duplicates == (5,)
    assert [line.line for line in file.unreadable] == [15, 16, 17]
    told = examine(file, 0.0007).to_json()
    assert (told["rows"], told["keeps"], told["discards"], told["crashes"]) == (9, 4, 3, 2)
    assert told["reported_gain"] == pytest.approx(0.0129) and told["low"] < told["estimated_gain"] < told["high"]
    assert len(told["unreadable"]) == 3 and told["sigma"] == 0.0007


def test_a_crash_is_no_score_however_it_is_written() -> None:
    rows = parse_foreign("".join(f"c\t{score}\t0\tcrash\tx\n" for score in ("0.000000", "inf", "nan", "", "-", "1.2"))).rows
    assert len(rows) == 6 and all(row.score is None for row in rows)


def test_the_estimated_gain_is_nearer_the_truth_than_the_reported_one() -> None:
    errors, reported = [], []
    for seed in range(6):
        text, gain = night(80, sigma=0.001, seed=seed)
        found = examine(parse_foreign(text), 0.001)
        assert found.estimated_gain is not None and found.reported_gain is not None
        errors.append(found.estimated_gain - gain)
        reported.append(found.reported_gain - gain)
    assert abs(np.mean(errors)) < 0.5 * np.mean(reported)


@pytest.mark.parametrize("sigma", [0.0003, 0.002])
def test_sigma_is_estimated_from_the_scatter(sigma: float) -> None:
    found = examine(parse_foreign(night(120, sigma=sigma, seed=1)[0]))
    assert found.sigma == pytest.approx(sigma, rel=0.5) and not found.sigma_is_given


def test_one_broken_model_changes_nothing() -> None:
    text, _ = night(60, sigma=0.001, seed=2)
    whole, broken = examine(parse_foreign(text)), examine(parse_foreign(f"{text}x\t3.2\t1.0\tdiscard\ttied weights\n"))
    assert broken.sigma == pytest.approx(whole.sigma, rel=0.2)
    assert broken.estimated_gain == pytest.approx(whole.estimated_gain, abs=1e-4)


def test_doubtful_keeps_are_named_for_a_rerun() -> None:
    text = "b\t1.0\t1\tkeep\tbaseline\nc1\t0.99\t1\tkeep\tlarge\nc2\t0.9899\t1\tkeep\tluck\n"
    found = examine(parse_foreign(text), 0.001)
    assert any("luck" in rerun.what for rerun in found.reruns) and not any("large" in rerun.what for rerun in found.reruns)
    assert 0 < found.expected_false_keeps < 1


def test_where_only_the_baseline_is_kept_no_gain_is_told() -> None:
    found = examine(parse_foreign("b\t1.0\t1\tkeep\tbaseline\nc1\t1.01\t1\tdiscard\tworse\n"), 0.001).to_json()
    assert [found[name] for name in ("estimated_gain", "low", "high")] == [None, None, None]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "commit\tval_bpb\tstatus\n", "x\t0\t0\tcrash\tall\n", "x\t1.0\t1\tdiscard\tnone\n"]
)
def test_a_file_without_a_keep_tells_nothing_and_fails_nowhere(text: str) -> None:
    found = examine(parse_foreign(text))
    assert found.estimated_gain is None and json.dumps(found.to_json()) and autopsy_lines(found)


def test_a_long_history_takes_seconds() -> None:
    """Time grows with the ideas that are in use, not with all that were ever tried."""
    begun = time.process_time()
    found = examine(parse_foreign(night(1000, sigma=0.001, seed=1)[0]))
    assert found.sigma == pytest.approx(0.001, rel=0.5) and time.process_time() - begun < 8


OWN = """commit\tval_bpb\tmemory_gb\tstatus\tdescription
2b46b8e\t3.009825\t0.7\tkeep\tbaseline
d438bcd\t2.895087\t0.7\tdiscard\tMATRIX_LR 0.04 -> 0.11
24845dd\t2.770345\t0.6\tkeep\tEMBEDDING_LR 0.6 -> 1.7
24845dd\t2.781000\t0.6\tdiscard\tconfirm 1: two-0002 under 2 fresh seeds
2b46b8e\t3.001031\t0.7\tdiscard\tconfirm 1: the baseline under 2 fresh seeds
9999999\t2.765665\t0.7\tdiscard\tcontrol: the head again
2b46b8e\t3.012000\t0.7\tdiscard\tcontrol: the baseline again
9da9725\t2.747320\t0.6\tdiscard\tDEPTH 2 -> 3
"""


def test_known_programs_that_ran_again_are_no_ideas() -> None:
    """Controls and confirmations of the farm's own results tell of the noise, and count among no keeps and no discards."""
    file = parse_foreign(OWN)
    assert file.reruns == {5: 4, 6: 2, 7: None, 8: 2}
    found = examine(file)
    told = found.to_json()
    assert (told["rows"], told["keeps"], told["discards"], told["known_programs"]) == (8, 2, 2, [5, 6, 7, 8])
    assert found.expected_false_discards < 2 and len(found.chain) == 2
    assert any("no idea by itself" in line and "5, 6, 7, 8" in line for line in autopsy_lines(found))
    noisy = examine(parse_foreign(OWN.replace("3.012000", "3.310000").replace("3.001031", "2.701031")))
    assert noisy.sigma is not None and found.sigma is not None and noisy.sigma > 2 * found.sigma
    again = parse_foreign(OWN + "d438bcd\t2.640000\t0.7\tkeep\tMATRIX_LR after all\n")
    assert again.reruns[10] == 3 and len(examine(again, 0.02).chain) == 2  # it is no program that has the keep


def test_merges_and_waves_of_the_farm_are_no_ideas() -> None:
    """Another system's idea that is merely described as a merge is one."""
    rows = (
        "1111111\t2.700000\t0.6\tkeep\tmerge: MATRIX_LR 0.04 -> 0.11; without EMBEDDING_LR 0.6 -> 1.7\n"
        "2222222\t2.710000\t0.6\tdiscard\twave 1: run 2 of 8\n"
        "3333333\t2.720000\t0.6\tkeep\tmerge: both attention heads into one\n"
        "4444444\t2.730000\t0.6\tdiscard\twaves of learning rates\n"
    )
    file = parse_foreign(OWN + rows)
    assert {line for line in file.reruns if line > 9} == {10, 11}
    told = examine(file, 0.02).to_json()
    assert (told["keeps"], told["discards"]) == (3, 3)


def test_the_records_of_this_farm_tell_which_of_its_rows_repeat_an_idea() -> None:
    """An experiment with the program of another is a further run of it; one with the edit alone, on another head, says less."""
    edit, other = "-DEPTH = 8\n+DEPTH = 9\n", "-LR = 1\n+LR = 2\n"
    experiments = [
        make_experiment(0, program="untouched", diff=""),
        make_experiment(1, program="deeper", diff=edit),
        make_experiment(2, program="faster", diff=other),
        make_experiment(3, kind="merge", program="both", diff=other, title="put together"),
        make_experiment(4, kind="manual", program="deeper", diff=edit),
        make_experiment(5, program="deeper and faster", diff=edit),
    ]
    records = [
        ExperimentRecord(experiment=one, runs=(make_run(one.id, 1 - at / 100),), verdict=Verdict(decision="keep", reason="so"))
        for at, one in enumerate(experiments)
    ]
    table = "\n".join(f"{one.commit[:7]}\t{1 - at / 100:.6f}\t1.0\tkeep\tx{at}" for at, one in enumerate(experiments))
    file = parse_foreign(f"{HEADER}{table}\nfffffff\t0.9\t1.0\tkeep\tby hand\n")
    own = own_rows(file, records)
    assert sorted(own) == [2, 3, 4, 5, 6, 7] and not file.reruns
    assert with_own_kinds(file, own).reruns == {5: None, 6: 3, 7: None}


def test_what_is_no_hash_does_not_say_that_two_rows_ran_one_program() -> None:
    assert parse_foreign(OWN.replace("2b46b8e", "n/a").replace("24845dd", "n/a")).reruns.keys() == {5, 6, 7, 8}
    assert not parse_foreign("".join(f"-\t1.{row}\t1\tkeep\tidea\n" for row in range(5))).reruns


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"x, y"', "x, y"),
        ('"say ""no"", or"', 'say "no", or'),
        ('5" wide', '5" wide'),
        ('"open, end', "open"),
        ("plain", "plain"),
    ],
)
def test_quoted_cells_of_a_csv_are_whole(written: str, read: str) -> None:
    header = HEADER.replace("\t", ",")
    (row,) = parse_foreign(f"{header}b,0.99,1,keep,{written}\n").rows
    assert row.description == read and row.score == 0.99


def test_a_gain_that_figures_do_not_show_is_0() -> None:
    equal = parse_foreign(HEADER + "".join(f"c{row}\t1.0\t1\t{'keep' if row < 2 else 'discard'}\tsame\n" for row in range(4)))
    (line,) = [line for line in autopsy_lines(examine(equal, 1e-6)) if "reported gain" in line]
    assert "-0.0000" not in line and line == "reported gain 0; estimated 0 [0, 0]"


HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
BASELINE = "b\t1.0\t1\tkeep\tbaseline\n"


@pytest.mark.parametrize(
    "rest, missing", [("", "noise"), ("c\t1.1\t1\tdiscard\tworse\n", "gain"), ("c\t0\t0\tcrash\tx\n", "noise")]
)
def test_a_file_with_a_single_keep_says_what_cannot_be_estimated(rest: str, missing: str) -> None:
    first, *lines = autopsy_lines(examine(parse_foreign(HEADER + BASELINE + rest)))
    assert "1 keep," in first and any("line 2" in line and missing in line for line in lines)
    assert not any("reported gain" in line for line in lines)


def test_the_smallest_sigma_that_is_estimated_is_not_the_smallest_that_can_be_given() -> None:
    equal = parse_foreign(BASELINE + BASELINE.replace("keep", "discard"))
    found = examine(equal).sigma
    assert found is not None and 1e-6 < found < 1e-4 and examine(equal, 1e-6).sigma == 1e-6


CELLS = st.one_of(
    st.sampled_from(
        ["keep", "DISCARD", "crash", "0.98", "0.000000", "inf", "-1", "val_bpb", "status", "commit", "", '"', "baseline"]
    ),
    st.text(max_size=8),
    st.floats().map(str),
)
LINES = st.one_of(st.lists(CELLS, max_size=13).map("\t".join), st.text(max_size=40), st.sampled_from(MESSY.splitlines()))


@settings(max_examples=120, deadline=None)
@given(st.lists(LINES, max_size=25), st.sampled_from(["\n", "\r\n"]))
def test_no_mangled_file_is_a_traceback_and_no_line_gets_lost(lines: list[str], ending: str) -> None:
    text = ending.join(lines)
    file = parse_foreign(text)
    written = [number for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1) if line.strip()]
    assert lines_of(file) == written
    found = examine(file, 0.001)
    json.dumps(found.to_json(), allow_nan=False)
    assert autopsy_lines(found)


def test_the_command_prints_json_in_a_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.tsv"
    path.write_bytes(MESSY.encode() + b"\xff\xfe\t\x00\n")
    begun = time.process_time()
    assert main(["autopsy", str(path), "--sigma", "0.0007", "--json"]) == 0
    assert time.process_time() - begun < 2
    assert json.loads(capsys.readouterr().out)["keeps"] == 4
    assert main(["autopsy", str(path)]) == 0 and "sigma" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none"):
        read_foreign(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# Read me\n\nA page, with commas, that holds\n" + b"a line of prose\n" * 30 + f"{HEADER}{BASELINE}".encode(),
        b"name,age,city\nAnn,3,Rome\nBob,4,Bonn\n",
        bytes(range(256)) * 40,
        bytes(LARGEST_FILE + 1),
    ],
)
def test_what_is_no_table_is_refused_in_one_line_that_shows_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.dat"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_foreign(path)
    said = str(refused.value)
    assert "other.dat" in said and "val_bpb" in said and "status" in said and "\n" not in said


def test_a_table_whose_lines_are_unreadable_is_still_one(tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    path.write_text(HEADER + "c\t1.0\t1\tpending\tx\n" * 12)
    assert [line.line for line in read_foreign(path).unreadable] == list(range(2, 14))
    path.write_text("# a note above\n" + HEADER + BASELINE + "what is this\n" * 5)
    assert len(read_foreign(path).unreadable) == 6


@dataclass(frozen=True)
class Row:
    """What a line of a well-meant file says, and how it is to be read."""

    line: str
    status: str
    score: float | None


NAMES = {
    "commit": ("commit", "Hash", "SHA", "exp"),
    "score": ("val_bpb", "VAL_BPB", "score", "Loss"),
    "memory": ("memory_gb", "Peak VRAM MB", "mem"),
    "status": ("status", "Decision", "VERDICT"),
    "description": ("description", "Idea", "notes"),
}
WORDS = {
    "keep": ("keep", "KEEP", "Kept", "accepted", "baseline"),
    "discard": ("discard", "Rejected", "REVERT"),
    "crash": ("crash", "OOM", "FAIL"),
}
NO_SCORES = ("0.000000", "0", "inf", "-inf", "nan", "", "-")


@st.composite
def tables(draw: st.DrawFn) -> list[str | Row]:
    """Lines of a file of the wild with 5 to 13 columns: headers under any names, repeated and changed in mid-file; no hashes;
    rows that are doubled; crashes without a score, however that is written.
    """
    lines: list[str | Row] = []
    for _ in range(draw(st.integers(1, 3))):
        columns = draw(st.permutations([*NAMES, *(f"extra{number}" for number in range(draw(st.integers(0, 8))))]))
        header = "\t".join(draw(st.sampled_from(NAMES.get(column, (column,)))) for column in columns)
        lines += [header] * draw(st.integers(1, 2))
        for _ in range(draw(st.integers(0, 4))):
            status = draw(st.sampled_from(sorted(WORDS)))
            score = round(draw(st.floats(0.5, 2.0)), 6)
            cells = {
                "commit": draw(st.sampled_from(["", "a1b2c3d", "baseline"])),
                "score": draw(st.sampled_from(NO_SCORES)) if status == "crash" else f"{score:.6f}",
                "memory": "44.0",
                "status": draw(st.sampled_from(WORDS[status])),
                "description": draw(st.sampled_from(["deeper", "", "LR 0.04 -> 0.06"])),
            }
            row = Row("\t".join(cells.get(column, "7") for column in columns), status, None if status == "crash" else score)
            lines += [row] * draw(st.integers(1, 2))
    return lines


@settings(max_examples=80, deadline=None)
@given(tables(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]))
def test_files_of_the_wild_are_read_for_what_they_say(lines: list[str | Row], ending: str, begins: str) -> None:
    file = parse_foreign(begins + ending.join(line.line if isinstance(line, Row) else line for line in lines))
    rows = {number: line for number, line in enumerate(lines, start=1) if isinstance(line, Row)}
    assert [(row.line, row.status, row.score) for row in file.rows] == [(n, row.status, row.score) for n, row in rows.items()]
    assert file.unreadable == () and len(file.headers) == len(lines) - len(rows)
    doubled = [number for number in rows if rows.get(number - 1) is rows[number]]
    assert set(doubled) <= set(file.duplicates)


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "results.tsv").write_text("commit\tval_bpb\tmemory_gb\tstatus\tdescription\n")
    with pytest.raises(UserError, match="only a header"):
        read_foreign(path)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_are_a_traceback(content: bytes) -> None:
    with NamedTemporaryFile() as written:
        Path(written.name).write_bytes(content + b"\nx\t1.0\t1\tkeep\tlast\n")
        file = read_foreign(Path(written.name))
        assert autopsy_lines(examine(file, 0.001)) and len(lines_of(file)) >= 1


def test_a_table_in_utf_16_is_read(tmp_path: Path) -> None:
    for name, encoding in (("marked", "utf-16"), ("unmarked", "utf-16-le"), ("utf8", "utf-8-sig")):
        (tmp_path / name).write_bytes((HEADER + BASELINE).encode(encoding))
        assert len(read_foreign(tmp_path / name).rows) == 1


def test_unreadable_lines_are_counted_beside_the_rows() -> None:
    first = autopsy_lines(examine(parse_foreign(HEADER + BASELINE + "no row\nnor this\n")))[0]
    assert first.startswith("1 row and 2 unreadable lines: 1 keep")
