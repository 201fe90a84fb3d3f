"""The parts that pages are made of: coloured diffs, small pictures, selections in addresses, values in words."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.dashboard.coloured import LONGEST_LINE, diff_lines, python, sql
from cluster.dashboard.combinations import Combination, in_waves, rivals
from cluster.dashboard.devices_now import devices_now
from cluster.dashboard.experiments_list import ORDERS, STATUSES, Selection, selection_from
from cluster.dashboard.headlines import Fall
from cluster.dashboard.pictures import HEIGHT, WIDTH, stairs
from cluster.dashboard.progress_points import top_of
from cluster.dashboard.reader import listed, quoted
from cluster.dashboard.site import ago, interval, plain, signed, when
from results.experiment import ExperimentRecord, Verdict
from results.residuals import DeviceResidual
from tests.results.result_samples import make_experiment, make_run

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).map(str.strip)


def test_lines_of_a_diff_have_their_numbers_in_both_files() -> None:
    diff = "--- a\n+++ b\n@@ -3,3 +3,3 @@ def f():\n same\n-x = 1\n+x = 2\n+--y\n\\ No newline at end of file\n"
    lines = diff_lines(diff)
    assert [(line.kind, line.old, line.new) for line in lines] == [
        ("place", None, None), ("same", 3, 3), ("removed", 4, None), ("added", None, 4), ("added", None, 5),
    ]  # fmt: skip
    assert [line.kind for line in diff_lines("-DEPTH = 8\n+DEPTH = 9\n")] == ["removed", "added"], "without places"


@pytest.mark.parametrize("colour", [python, sql])
def test_coloured_text_is_escaped_and_loses_what_cannot_be_seen(colour) -> None:
    for text in ("<b>&\"'\u202e", "x = '</code><script>'", "<" * (LONGEST_LINE + 1)):
        shown = colour(text)
        assert "<b>" not in shown and "<script>" not in shown and "&lt;" in shown and "\u202e" not in shown


@given(status=st.sampled_from(["", *STATUSES]), sort=st.sampled_from(list(ORDERS)), down=st.booleans(), branch=words,
       slot=words, researcher=words, text=words, page=st.integers(1, 999_999))  # fmt: skip
def test_an_address_holds_the_whole_selection(**fields: object) -> None:
    selection = Selection(**fields)  # type: ignore[arg-type]
    assert selection_from(dict(parse_qsl(selection.address()))) == selection


def test_sorting_by_the_same_column_turns_it_round() -> None:
    once = selection_from(dict(parse_qsl(Selection(page=7).sorted_by("effect"))))
    assert (once.sort, once.down, once.page) == ("effect", True, 1)
    assert not selection_from(dict(parse_qsl(once.sorted_by("effect")))).down


def test_texts_become_literals() -> None:
    assert quoted("it's") == "'it''s'" and listed(["a", "b'"]) == "('a', 'b''')" and listed([]) == "(NULL)"


def test_stairs_stay_in_their_area() -> None:
    picture = stairs(Fall(steps=((0, 1.0), (5, 0.9), (9, 0.95)), experiments=10))
    assert picture is not None and (picture.bottom, picture.top) == (0.9, 1.0)
    places = [tuple(map(float, place.split(","))) for place in picture.lines[0].points.split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places) and places[0] == (0.0, 0.0) and places[-1][0] == WIDTH
    assert stairs(Fall(steps=((0, 1.0),), experiments=10)) is None and stairs(Fall(steps=(), experiments=0)) is None


def test_far_scores_do_not_stretch_the_chart_and_heads_are_inside() -> None:
    assert 1.02 < top_of(1.0, 1.015, 9.0, []) < 1.1
    assert top_of(1.0, 1.015, 9.0, [1.5]) == 1.5 and top_of(2.0, 2.0, 2.0, []) == 2.0


def test_values_are_words() -> None:
    assert signed(-0.00001) == "+0.0000" and signed(-0.01) == "\N{MINUS SIGN}0.0100" and signed(None) == "\N{EN DASH}"
    assert interval(0.01, -0.02, 0.03).count("\N{MINUS SIGN}") == 1
    assert when("2026-03-08 20:05:59") == when("2026-03-08T20:05:00Z") == "8 Mar 20:05"
    past = datetime.now(UTC) - timedelta(hours=26)
    assert ago(past.isoformat()) == "1 day ago" and ago((past + timedelta(hours=25, minutes=57)).isoformat()) == "3 minutes ago"
    assert plain("a\r\nb\u202e<") == "a\nb &lt;"


NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)


def work(worker: str, began_s: float, ended_s: float | None) -> dict[str, object]:
    """A row of the queue, by how many seconds ago a run began and ended."""
    times = {"began": NOW - timedelta(seconds=began_s), "ended": ended_s and NOW - timedelta(seconds=ended_s)}
    told = {name: time and time.replace(tzinfo=None) for name, time in times.items()}
    return {
        "worker": worker,
        "branch": "b",
        "experiment": "e",
        "kind": "explore",
        "state": "done" if ended_s else "running",
        **told,
    }


def test_a_device_tells_how_busy_it_was_and_how_long_it_waits() -> None:
    running = {"seconds": 1_000.0, "devices": ["cuda:0", "cuda:1", "cuda:2"], "loops": {}, "quarantined": {}}
    rows = [work("cuda:0", 5_000, 900), work("cuda:0", 500, None), work("cuda:1", 400, 300)]
    residuals = {"cuda:1": DeviceResidual(sds=1.1, scores=9)}
    busy, idle, new = devices_now(running, rows, residuals=residuals, now=NOW)
    assert busy.state == "running" and busy.duty == pytest.approx(0.6), "100 s and 500 s of the farm's 1,000 s"
    assert (idle.duty, idle.idle_seconds, idle.is_idle_long) == (pytest.approx(0.1), 300, True)
    assert (new.duty, new.idle_seconds, new.is_idle_long) == (0, None, False)
    assert idle.residual is not None and idle.residual.is_unusual and not DeviceResidual(sds=1.1, scores=2).is_unusual


def combined(score: float | None, beyond: float | None, *ideas: str) -> Combination:
    """A run of a wave with these ideas."""
    experiment = make_experiment(7, kind="wave", parent_commit="head", patches=ideas)
    verdict = None if beyond is None else Verdict(decision="discard", reason="measured", gain=beyond, sigma=0.001)
    run = make_run("r", score, status="ok" if score else "crash")
    record = ExperimentRecord(experiment=experiment, runs=(run,), verdict=verdict)
    return Combination(record=record, added=tuple((idea, None) for idea in ideas), left_out=(), in_head=3, beyond=beyond,
                       sigmas=None if beyond is None else beyond / 0.001)  # fmt: skip


def test_parts_add_up_within_the_noise_and_clash_beyond_it() -> None:
    found = [combined(1.0, 0.0019), combined(1.0, -0.0021), combined(1.0, 0.0021), combined(None, None)]
    assert [(one.finding.partition(":")[0], one.clashes) for one in found] == [
        ("adds up", False), ("clashes", True), ("more than its parts", False), ("under way", False),
    ]  # fmt: skip


def test_a_wave_says_of_each_idea_how_runs_with_it_and_without_it_scored() -> None:
    waves = [combined(1.00, 0.0, "a", "b"), combined(1.02, 0.0, "b"), combined(1.04, 0.0, "c"), combined(None, None, "a", "c")]
    found = in_waves(waves)
    assert (found["a"].inside, found["a"].outside) == (1, 2) and found["a"].gain == pytest.approx(0.03)
    assert found["b"].gain == pytest.approx(0.03) and found["c"].gain == pytest.approx(-0.03)


def test_near_misses_that_change_one_place_are_rivals() -> None:
    near = [ExperimentRecord(experiment=make_experiment(n, slots=slots), runs=(), verdict=None)
            for n, slots in enumerate([("A", "B", "D"), ("B", "D"), ("C",)])]  # fmt: skip
    assert [(one.slots, [id for id, _ in one.ideas]) for one in rivals(near)] == [(("B", "D"), ["mar8-0000", "mar8-0001"])]
