"""What people read: results.tsv, the picture and the texts."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from results import policy
from results.confirmation import LEVEL
from results.experiment import ExperimentRecord, Usage, Verdict
from results.group_history import Decided
from results.head_gain import interval_text
from results.plot import Point, picture_of, progress_figure, score_range, write_progress_png
from results.report import leaderboard_text, morning_report
from results.tsv import write_results_tsv
from tests.results.history_samples import history_of
from tests.results.result_samples import make_branch, make_experiment, make_run

if TYPE_CHECKING:  # each test process imports this file, and one of them needs matplotlib
    from matplotlib.figure import Figure

SIGMA = 0.0007


def record(number: int, decision: str, val_bpb: float | None = None, **changes: object) -> ExperimentRecord:
    gain = changes.pop("gain", None)
    status = decision if decision in ("lost", "invalid") else "crash" if val_bpb is None else "ok"
    measured = gain is not None
    return ExperimentRecord(
        experiment=make_experiment(number, **changes),
        runs=(make_run(f"r{number}", val_bpb, status=status, reason="it fell over" if val_bpb is None else ""),),
        verdict=Verdict(
            decision=decision,  # type: ignore[arg-type]
            reason="so it is",
            gain=gain,  # type: ignore[arg-type]
            needed=SIGMA if measured else None,
            sigma=SIGMA if measured else None,
        ),
    )


@pytest.fixture
def night() -> list[ExperimentRecord]:
    return [
        record(0, "keep", 0.9979),
        record(1, "keep", 0.986041, gain=0.011859, title='halve the "batch"\tto 262K\n(more steps)'),
        record(2, "discard", 0.986001, gain=0.00004, title="add warm-up"),
        record(3, "crash"),
        record(4, "invalid"),
        record(5, "lost"),
        record(6, "keep", 0.981773, gain=0.004268, title="depth 9"),
        record(7, "discard", 0.999, gain=-0.0172),
        replace(record(8, "keep"), runs=(), verdict=None),
    ]


def test_results_tsv_is_what_people_know(tmp_path: Path, night: list[ExperimentRecord]) -> None:
    path = tmp_path / "results.tsv"
    write_results_tsv(path, night)
    assert path.read_text().splitlines() == [
        "commit\tval_bpb\tmemory_gb\tstatus\tdescription",
        "0000ccc\t0.997900\t43.9\tkeep\tbaseline",
        "0001ccc\t0.986041\t43.9\tkeep\thalve the 'batch' to 262K (more steps)",
        "0002ccc\t0.986001\t43.9\tdiscard\tadd warm-up",
        "0003ccc\t0.000000\t0.0\tcrash\tidea 3",
        "0004ccc\t0.000000\t0.0\tcrash\tidea 4",
        "0006ccc\t0.981773\t43.9\tkeep\tdepth 9",
        "0007ccc\t0.999000\t43.9\tdiscard\tidea 7",
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["results.tsv"]


def test_the_well_known_analysis_works_on_results_tsv(tmp_path: Path, night: list[ExperimentRecord]) -> None:
    import pandas as pd

    path = tmp_path / "results.tsv"
    write_results_tsv(path, night)
    frame = pd.read_csv(path, sep="\t")
    assert frame.shape == (7, 5)
    frame["val_bpb"] = pd.to_numeric(frame["val_bpb"], errors="coerce")
    frame["status"] = frame["status"].str.strip().str.upper()
    assert frame["status"].value_counts().to_dict() == {"KEEP": 3, "DISCARD": 2, "CRASH": 2}
    kept = frame[frame["status"] == "KEEP"].copy()
    assert list(kept["val_bpb"].cummin()) == [0.997900, 0.986041, 0.981773]
    kept["delta"] = kept["val_bpb"].shift(1) - kept["val_bpb"]
    assert list(kept["delta"].iloc[1:].round(6)) == [0.011859, 0.004268]
    assert kept.loc[kept["delta"].idxmax(), "description"].startswith("halve")


def test_what_was_not_measured_is_empty_in_results_tsv(tmp_path: Path) -> None:
    import pandas as pd

    one = record(0, "keep", 0.9)
    unmeasured = replace(one, runs=(make_run("r", 0.9, peak_memory_mb=None),))
    write_results_tsv(tmp_path / "results.tsv", [unmeasured])
    assert pd.read_csv(tmp_path / "results.tsv", sep="\t")["memory_gb"].isna().all()


def test_an_empty_results_tsv_has_its_header(tmp_path: Path) -> None:
    import pandas as pd

    write_results_tsv(tmp_path / "results.tsv", [])
    frame = pd.read_csv(tmp_path / "results.tsv", sep="\t")
    assert list(frame.columns) == ["commit", "val_bpb", "memory_gb", "status", "description"]


def test_the_picture_is_written_whole(tmp_path: Path, night: list[ExperimentRecord]) -> None:
    from matplotlib.image import imread

    path = tmp_path / "progress.png"
    write_progress_png(path, picture_of(night, "autoresearch/mar8"))
    height, width, _ = imread(path).shape
    assert width > 1500 and height > 800
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]


def test_the_picture_takes_whatever_a_branch_holds(tmp_path: Path) -> None:
    path = tmp_path / "progress.png"
    write_progress_png(path, picture_of([], "nothing"))
    write_progress_png(path, picture_of([record(0, "crash")], "a crash"))
    write_progress_png(path, picture_of([record(0, "keep", 1.0)], "one keep"))
    odd = [record(n, "keep", 1.0, title="costs $5 and $x^ {\\n") for n in range(3)]
    write_progress_png(path, picture_of(odd, "three equal keeps with odd titles"))
    many = [record(n, "keep" if n % 2 else "discard", 1 - n / 1e4, title="t" * 200) for n in range(160)]
    write_progress_png(path, picture_of(many, "many keeps with long titles"))
    assert path.stat().st_size > 10_000


def legend_of(figure: "Figure") -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_picture_says_what_it_shows(night: list[ExperimentRecord]) -> None:
    """It counts as the report does, has a mark for what has no score, and calls the head the head."""
    figure = progress_figure(picture_of(night, "autoresearch/mar8"))
    assert figure.axes[0].get_title() == "autoresearch/mar8: 6 experiments, 2 kept"
    assert legend_of(figure) == [
        "kept (mean of its runs)",
        "head: the last one kept",
        "discarded",
        "crashed (1)",
        "invalid (1)",
    ]
    nothing_else = progress_figure(picture_of(night[:1], "one keep"))
    assert nothing_else.axes[0].get_title() == "one keep: 0 experiments, 0 kept"
    assert legend_of(nothing_else) == ["kept (mean of its runs)", "head: the last one kept"]


def test_the_picture_says_sigma_and_how_many_runs_there_are(night: list[ExperimentRecord]) -> None:
    told = [replace(one, verdict=one.verdict and replace(one.verdict, sigma=0.0123)) for one in night]
    said = [text.get_text() for text in progress_figure(picture_of(told, "night")).axes[0].texts]
    runs = sum(run.status == "ok" for one in night for run in one.runs)
    assert any(f"{runs} scored runs" in text and "sigma 0.0123" in text for text in said)
    assert not any("sigma" in text.get_text() for text in progress_figure(picture_of([], "none")).axes[0].texts)


def test_an_outlier_is_marked_at_the_top_edge(night: list[ExperimentRecord]) -> None:
    figure = progress_figure(picture_of([*night, record(9, "discard", 11.0)], "an outlier"))
    assert "discarded, further up (1)" in legend_of(figure)
    assert figure.axes[0].get_ylim()[1] < 1.01


def test_the_head_may_rise() -> None:
    """Simpler code is kept at a score that is a little higher: the line shows it, and not the best that ever was."""
    figure = progress_figure(picture_of([record(0, "keep", 0.9), record(1, "keep", 0.901)], "simpler code"))
    [line] = figure.axes[0].get_lines()
    assert list(line.get_ydata()) == [0.9, 0.901, 0.901]


def test_no_point_lies_at_an_edge_that_would_cut_it(night: list[ExperimentRecord]) -> None:
    for shown in (night, night[:1], [record(0, "keep", 1.0), record(1, "discard", 1.3), record(2, "discard", 0.99)]):
        axes = progress_figure(picture_of(shown, "points")).axes[0]
        for points in axes.collections:
            if points.get_clip_on():
                inside = axes.transAxes.inverted().transform(axes.transData.transform(points.get_offsets()))
                assert inside.min() > 0.02 and inside.max() < 0.98


def test_plotting_leaves_no_global_state() -> None:
    import subprocess
    import sys

    code = "import sys, results.plot, results.report, results.tsv; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_the_leaderboard_is_sorted(night: list[ExperimentRecord]) -> None:
    lines = leaderboard_text(night).splitlines()
    assert lines[1].split()[:3] == ["1", "0.981773", "+0.004268"]
    assert [line.split()[1] for line in lines[1:]] == ["0.981773", "0.986041", "0.997900"]
    assert "and 2 more keeps" in leaderboard_text(night, limit=1)
    assert leaderboard_text(night, limit=2).endswith("and 1 more keep\n")
    assert leaderboard_text([]) == "no keep yet\n"


def test_the_morning_report_says_all_of_it_in_ten_lines(night: list[ExperimentRecord]) -> None:
    text = morning_report([history_of(night)])
    assert len(text.splitlines()) <= 12
    assert "6 experiments: 2 kept, 2 discarded, 1 crashed, 1 invalid; 1 lost by machines and not counted" in text
    assert "$2.00, 120 tokens" in text and "28.3 device minutes" in text


def headline(text: str) -> tuple[float, float, float, float, float]:
    """Baseline, head and the gain with its interval, as a report's first figures say."""
    found = re.search(r"val_bpb (\S+) -> (\S+) expected: gain (\S+) \[(\S+), (\S+)\] \(90%", text)
    assert found is not None, text
    baseline, head, gain, low, high = map(float, found.groups())
    return baseline, head, gain, low, high


def night_of(*scores: float, baselines: int = 4) -> list[ExperimentRecord]:
    """A baseline with several runs, and ideas with these scores, each on the head; those with a gain are kept."""
    rng = np.random.default_rng(baselines)
    runs = tuple(make_run(f"b{n}", 1.0 + SIGMA * rng.standard_normal(), seed=n) for n in range(baselines))
    records = [replace(record(0, "keep", 1.0), runs=runs)]
    kept: tuple[str, ...] = ()
    for number, score in enumerate(scores, start=1):
        idea = f"mar8-{number:04d}"
        is_kept = score < 1.0 - 2 * SIGMA
        one = record(number, "keep" if is_kept else "discard", score, patches=(*kept, idea), slots=(f"S{number}",),
                     structure="s", left_out=())  # fmt: skip
        records.append(replace(one, runs=tuple(replace(run, seed=1000 + number) for run in one.runs)))
        kept = (*kept, idea) if is_kept else kept
    return records


def test_the_headline_is_the_shrunk_gain_and_the_own_score_stands_beside_it() -> None:
    """A small gain that was selected among many ideas is reported as less than its score says."""
    text = morning_report([history_of(night_of(*[1.0 + SIGMA / 2] * 6, 1.0 - 2.5 * SIGMA))])
    baseline, head, gain, low, high = headline(text)
    assert low < gain < high and head == pytest.approx(baseline - gain, abs=2e-4)
    [own] = [line for line in text.splitlines() if line.startswith("The head's raw score")]
    said, over = (float(found) for found in re.findall(r"says (\S+), which overstates by (\S+)", own)[0])
    assert said - gain == pytest.approx(over, abs=1e-4) and gain < 0.8 * said
    assert "[mar8-0007]" in own


def test_the_raw_gain_is_from_the_baselines_own_score_as_the_audit_has_it() -> None:
    records = night_of(0.99)
    baseline, head = records[0].val_bpb, records[1].val_bpb
    assert baseline is not None and head is not None
    again = record(2, "discard", 1.1, kind="control", commit=records[0].experiment.commit)
    text = morning_report([history_of([*records, again])])
    assert f"says {baseline - head:+.4f}" in text


def test_ideas_have_their_estimated_effect_with_interval_and_probability() -> None:
    text = morning_report([history_of(night_of(0.99, 1.0 - 0.5 * SIGMA, 1.01))])
    [best] = [line for line in text.splitlines() if line.startswith("Best ideas:")]
    effect, low, high, p = map(float, re.findall(r"(\S+) \[(\S+), (\S+)\] P (\S+)", best)[0])
    assert low < effect < high and effect == pytest.approx(0.01, abs=0.002) and p > 0.95 and "[mar8-0001]" in best
    records = night_of(0.99, 1.01)
    records[2] = replace(records[2], verdict=records[1].verdict)
    text = morning_report([history_of(records)])
    assert "[mar8-0002]" not in text.partition("Best ideas:")[2].partition("Near-misses")[0], "it harms, and is in the head"


def test_an_idea_that_is_kept_and_not_in_the_head_yet_waits_for_a_merge() -> None:
    records = night_of(0.99, 0.97)
    records[2] = replace(records[2], verdict=Verdict(decision="discard", reason="no head was made of it"))
    text = morning_report([history_of(records)])
    [waiting] = [line for line in text.splitlines() if line.startswith("Waiting for a merge:")]
    assert "[mar8-0002]" in waiting and "[mar8-0002]" not in text.partition("Waiting")[0]
    assert "Waiting" not in morning_report([history_of(night_of(0.99))])


def test_near_misses_are_those_of_the_policy(night: list[ExperimentRecord]) -> None:
    history = history_of(night_of(0.99, 0.99 - 0.6 * SIGMA, 1.05))
    state = history.group.state
    assert state is not None
    named = policy.near_misses(state.farm)
    text = morning_report([history])
    assert named and f"Near-misses ({len(named)}): P 0." in text and f"[{named[0]}]" in text
    assert "[mar8-0003]" not in text


def test_more_near_misses_are_counted_and_none_is_called_dropped_as_well() -> None:
    flips = [Verdict(decision="keep", reason="it was"), Verdict(decision="discard", reason="dropped: less sure now")]
    decisions = {"mar8-0001": [Decided(time=f"2026-03-08T21:0{n}:00Z", verdict=v) for n, v in enumerate(flips)]}
    text = morning_report([history_of(night_of(1.0 - 0.7 * SIGMA, *[1.0 - 0.5 * SIGMA] * 4), decisions=decisions)])
    assert "Near-misses (5): P 0." in text and text.count("] (kept once) idea 1") == 1 and "Dropped" not in text
    assert "and 2 more\n" in text


def confirmed(number: int, commit: str, *scores: float, seeds: int = 0) -> ExperimentRecord:
    """One side of a confirmation, under the seeds from `seeds` on."""
    one = record(number, "discard", 1.0, kind="confirm", commit=commit)
    return replace(one, runs=tuple(make_run(f"c{number}-{n}", score, seed=seeds + n) for n, score in enumerate(scores)))


def test_a_confirmation_has_welchs_interval_and_moves_no_estimate() -> None:
    from scipy.stats import ttest_ind

    records = night_of(0.99)
    head, baseline = records[1].experiment.commit, records[0].experiment.commit
    before = morning_report([history_of(records)], confirm="farm confirm --home x")
    assert "Not run under fresh seeds: farm confirm --home x autoresearch/mar8" in before
    tried, untouched = (0.9921, 0.9930, 0.9924), (1.0010, 1.0002, 1.0016)
    pair = [confirmed(2, head, *tried), confirmed(3, baseline, *untouched)]
    text = morning_report([history_of([*records, *pair])])
    line = told_of_confirmation(text)
    assert "under 3 fresh seeds (Welch, 95%)" in line
    gain, low, high = map(float, re.findall(r"(\S+) \[(\S+), (\S+)\]", line)[0])
    expected = ttest_ind(untouched, tried, equal_var=False).confidence_interval(LEVEL)
    assert (gain, low, high) == pytest.approx((0.00843, expected.low, expected.high), abs=1e-4)
    assert headline(text) == headline(before)
    assert "Code: git diff 0000ccc 0001ccc" in text, "a confirmation becomes no head"


def test_a_confirmation_of_an_earlier_head_is_said_to_be_that() -> None:
    records = night_of(0.99, 0.98)
    first, second = (record.experiment for record in records[1:])
    heads = [{"commit": one.commit, "experiment": one.id, "expected": 0.99} for one in (first, second)]
    pair = [confirmed(3, first.commit, 0.991, 0.992), confirmed(4, records[0].experiment.commit, 1.0, 1.001)]
    text = morning_report([history_of([*records, *pair], heads=heads)])
    assert "Not run under fresh seeds" in text and "of an earlier head gain +0.0090" in text


def test_both_sides_of_a_confirmation_ran_under_the_same_seeds() -> None:
    """A later one of which one side alone has run changes nothing."""
    records = night_of(0.99)
    head, baseline = records[1].experiment.commit, records[0].experiment.commit
    pair = [confirmed(2, head, 0.991, 0.992), confirmed(3, baseline, 1.0, 1.001)]
    told = headline_of_confirmation([*records, *pair])
    assert "+0.0090" in told
    for later in (confirmed(4, head, 0.95, 0.951, seeds=10), confirmed(4, baseline, 1.1, 1.101, seeds=10)):
        assert headline_of_confirmation([*records, *pair, later]) == told


def headline_of_confirmation(records: list[ExperimentRecord]) -> str:
    return told_of_confirmation(morning_report([history_of(records)]))


def told_of_confirmation(text: str) -> str:
    """The part of a report on fresh seeds, in one line."""
    (found,) = re.findall(r"^[^\n]*fresh seeds.*?\(Welch, 95%\)", text, re.M | re.S)
    return " ".join(str(found).split())


@pytest.mark.parametrize(
    ("tried", "words"),
    [
        ((1.03, 0.95), "Too few seeds to tell; "),
        ((1.0010, 1.0002, 1.0016), "Not confirmed: fresh seeds show no gain; "),
        ((1.2, 1.201, 1.202), "Not confirmed: fresh seeds show a loss; "),
        ((0.5, 0.501, 0.502), "Not confirmed as estimated: fresh seeds show a gain, which the estimate understates by "),
    ],
)
def test_what_fresh_seeds_do_not_show_is_not_called_confirmed(tried: tuple[float, ...], words: str) -> None:
    records = night_of(0.9)
    pair = [confirmed(3, records[1].experiment.commit, *tried), confirmed(4, records[0].experiment.commit, 1.0, 1.0012, 1.0004)]
    assert headline_of_confirmation([*records, *pair]).startswith(words)


def test_what_was_dropped_says_why_and_other_runs_are_counted() -> None:
    records = night_of(0.99, 0.98)
    flips = [Verdict(decision="keep", reason="it was"), Verdict(decision="discard", reason="dropped: it harms; effect -0.1")]
    records[1] = replace(records[1], verdict=flips[1])
    merges = [record(3, "keep", 0.98, kind="merge", patches=("mar8-0002",)), record(4, "discard", 0.98, kind="merge")]
    decisions = {"mar8-0001": [Decided(time=f"2026-03-08T21:0{n}:00Z", verdict=v) for n, v in enumerate(flips)]}
    text = morning_report([history_of([*records, *merges, record(5, "discard", 1.0, kind="control")], decisions=decisions)])
    assert "Dropped: [mar8-0001] idea 1: it harms\n" in text
    assert "2 merges of kept ideas (1 taken apart), 1 control\n" in text


def test_branches_that_share_a_head_have_one_headline_and_their_own_counts() -> None:
    """The head may be another branch's, and a branch without keeps of its own stands on it."""
    ours = night_of(0.99)
    theirs = [record(number, decision, score, branch="autoresearch/mar8-b", id=f"b-{number}", commit=f"b{number}" * 20)
              for number, decision, score in ((0, "keep", 1.0003), (1, "discard", 1.01))]  # fmt: skip
    text = morning_report([history_of(ours, theirs)])
    assert text.count("expected:") == 1 and "the head of 2 branches" in text
    assert "autoresearch/mar8\n  1 experiment: 1 kept" in text
    swapped = history_of(theirs, ours, branch=make_branch("autoresearch/mar8-b", group="autoresearch/mar8"))
    assert swapped.head is not None and swapped.head.experiment.id == "mar8-0001"
    assert "autoresearch/mar8-b\n  1 experiment: 0 kept, 1 discarded" in morning_report([swapped])


def test_a_branch_of_another_version_has_scores_but_no_estimate(night: list[ExperimentRecord]) -> None:
    text = morning_report([history_of(night, branch=make_branch(contract_json='{"OLD": 1}'))])
    assert "no estimate" in text and "says +0.0161" in text and "6 experiments" in text and "expected:" not in text


def test_the_morning_report_before_anything_happened() -> None:
    assert morning_report([]) == "Nothing is recorded yet.\n"
    assert "no score yet" in morning_report([history_of([])])
    assert "the head is still the baseline" in morning_report([history_of([record(0, "keep", 0.99)])])


def test_the_report_counts_ideas_alone(night: list[ExperimentRecord]) -> None:
    """The baseline and controls measure where a branch stands; what was lost says nothing."""
    control = record(9, "discard", 0.9978, kind="control")
    text = morning_report([history_of([night[0], night[1], night[5], control])])
    assert "\n1 experiment: 1 kept, 0 discarded, 0 crashed, 0 invalid; 1 lost by" in text
    assert "\n0 experiments: 0 kept," in morning_report([history_of([night[0]])])


def test_the_report_names_no_empty_diff(night: list[ExperimentRecord], tmp_path: Path) -> None:
    for records in ([], [night[0]], [night[0], night[2], night[3]]):
        text = morning_report([history_of(records)])
        assert "git diff" not in text and "Code: no difference yet" in text
    assert "Code: git diff 0000ccc 0006ccc -- research/train.py" in morning_report([history_of(night)])
    back = record(2, "keep", 0.9991, kind="merge")
    head = {"commit": back.experiment.commit, "experiment": back.experiment.id, "expected": 1.0}
    text = morning_report([history_of([*night_of(0.99), back], heads=[head])], home=tmp_path)
    assert "git diff" not in text and "Audit" not in text and "gain +" not in text
    assert "Audit: gain" in morning_report([history_of(night_of(0.99))], home=tmp_path)


def test_an_unknown_price_is_not_called_nothing() -> None:
    paid = record(1, "keep", 0.9, usage=Usage(model="m", input_tokens=1000))
    assert "cost unknown, 1,000 tokens" in morning_report([history_of([paid])])
    free = record(1, "keep", 0.9, usage=Usage())
    assert "the researcher was free" in morning_report([history_of([free])])


def points(*scores: float) -> list[Point]:
    return [Point(number=number, val_bpb=score, title="") for number, score in enumerate(scores)]


def test_the_keeps_fill_the_picture() -> None:
    assert score_range(points(1.0, 0.98, 0.97), points(1.2, 0.99, 3.0)) == (0.97, 1.0)


def test_where_nothing_beats_the_first_all_show_but_what_is_far_off() -> None:
    assert score_range(points(1.0), points(1.3, 1.1, 9.0, 1.2)) == (1.0, 1.3)
    assert score_range(points(2.2523), points(2.2407, 2.3481, 2.3258, 2.3464, 2.3219)) == (2.2407, 2.3481)
    assert score_range(points(1.0), []) == (1.0, 1.0)
    assert score_range(points(1.0), points(11.0)) == (1.0, 1.0)


def test_a_discard_that_is_lower_within_the_noise_shows() -> None:
    assert score_range(points(1.0), points(0.99, 1.1, 9.0)) == (0.99, 1.1)


@pytest.mark.parametrize("left", ["file", "folder", "dangling link", "link"])
def test_what_a_person_left_under_the_pictures_name_is_moved_aside(tmp_path: Path, left: str) -> None:
    path = tmp_path / "progress.png"
    if left == "folder":
        path.mkdir()
    elif left == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "theirs.png")
        if left == "link":
            (tmp_path / "theirs.png").write_text("mine")
    assert write_progress_png(path, picture_of([record(0, "keep", 1.0)], "one keep")) == tmp_path / "progress.png.1"
    assert write_progress_png(path, picture_of([record(0, "keep", 1.0)], "one keep again")) is None
    assert path.read_bytes().startswith(b"\x89PNG") and not path.is_symlink()
    assert left != "link" or (tmp_path / "progress.png.1").read_text() == "mine"


def test_an_empty_picture_is_nothing_to_keep(tmp_path: Path) -> None:
    """A power cut can leave one."""
    (tmp_path / "progress.png").touch()
    assert write_progress_png(tmp_path / "progress.png", picture_of([], "nothing")) is None


DRAWS = """
import sys
from pathlib import Path
from results.plot import picture_of, write_progress_png
write_progress_png(Path(sys.argv[1]), picture_of([], "\\u5b66\\u4e60"))
"""


def test_a_home_that_cant_be_written_and_letters_that_fonts_lack_are_drawn_without_a_word(tmp_path: Path) -> None:
    odd = {**os.environ, "HOME": "/proc", "PYTHONWARNINGS": "error"}
    odd.pop("MPLCONFIGDIR", None)
    command = [sys.executable, "-c", DRAWS, str(tmp_path / "progress.png")]
    done = subprocess.run(command, env=odd, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_line_shows_what_is_expected_of_heads(night: list[ExperimentRecord]) -> None:
    """Also of heads that other branches made, and where it is below every score of this branch."""
    heads = [Point(number=2, val_bpb=0.987, title=""), Point(number=5, val_bpb=0.975, title="")]
    figure = progress_figure(picture_of(night, "heads", heads))
    [line] = figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [0, 2, 5, 7] and list(line.get_ydata()) == [0.9979, 0.987, 0.975, 0.975]
    assert figure.axes[0].get_ylim()[0] < 0.975
    assert any("expected" in text for text in legend_of(figure))


def test_a_report_says_that_ideas_need_not_add_up_to_the_heads_gain(tmp_path: Path) -> None:
    text = " ".join(morning_report([history_of(night_of(0.99, 0.98))], home=tmp_path).split())
    assert "A head's gain is estimated as a whole" in text


def test_what_four_decimals_do_not_show_has_no_minus() -> None:
    assert interval_text(-0.00001, -0.00004, 0.00002) == "+0.0000 [+0.0000, +0.0000]"
    assert interval_text(-0.00006, -0.1, 0.1) == "-0.0001 [-0.1000, +0.1000]"
