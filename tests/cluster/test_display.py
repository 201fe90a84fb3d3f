import io
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.display import PlainDisplay, TerminalDisplay, verdict_line
from research.result import RunResult
from results.counts import count
from results.experiment import Experiment, ExperimentRecord, Verdict
from results.head_gain import ExpectedGain

BRANCH = "autoresearch/nov22"


def record(decision="keep", val_bpb=1.2345, kind="explore"):
    experiment = Experiment(
        id="e1",
        branch=BRANCH,
        number=4,
        kind=kind,
        commit="c" * 40,
        parent_commit="d" * 40,
        title="[bold]deeper",
        hypothesis="",
        researcher="search",
        created="2026-11-22T00:00:00Z",
    )
    run = RunResult(run_id="r", status="ok", reason="", seed=1, device="cpu", val_bpb=val_bpb)
    return ExperimentRecord(
        experiment=experiment, runs=(run,), verdict=Verdict(decision=decision, reason="better by 2 sigma", gain=0.02)
    )


def test_plain_lines_tell_each_start_once_and_each_verdict_with_its_reason():
    lines = []
    display = PlainDisplay(lines.append)
    display.loop_state(BRANCH, phase="proposing")
    display.loop_state(BRANCH, phase="starting", experiment="nov22-0004", title="deeper", run=1)
    for step in range(3):
        display.loop_state(BRANCH, phase="training", fraction=step / 3)
    display.verdict(record())
    assert lines == [
        "nov22  run 1: nov22-0004 deeper",
        "nov22  #4     keep     1.234500 (+0.0200)  [bold]deeper: better by 2 sigma",
    ]


def test_the_clock_stops_when_the_display_is_closed():
    """So that the end of a farm says the time that the live view showed last."""
    for display in (PlainDisplay(lambda line: None), TerminalDisplay(Console(file=io.StringIO(), force_terminal=True))):
        began = display.seconds()
        display.close()
        ended = display.seconds()
        assert 0 <= began <= ended == display.seconds()


def test_the_live_view_shows_loops_verdicts_and_totals():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    display = TerminalDisplay(console)
    display.loop_state(BRANCH, phase="training", experiment="nov22-0005", title="[red]wider")
    display.loop_state(BRANCH, fraction=0.25, seconds=2.5, loss=3.21)
    display.verdict(record("keep", 1.25, kind="baseline"))
    display.verdict(record("keep", 1.2))
    display.head_gain(BRANCH, ExpectedGain(baseline=1.25, gain=0.05, low=0.01, high=0.08, sigma=0.01))
    display.verdict(record("discard", None))
    kept, dropped = record(), replace(record("discard"), experiment=replace(record().experiment, id="e2", diff="+1"))
    display.counts(count([kept, dropped, record(kind="merge"), record("keep", kind="baseline")]))
    display.say("a [line] above")
    with console.capture() as capture:
        console.print(display.render())
    shown = capture.get()
    gain = "nov22  val_bpb 1.2500 -> 1.2000 expected: gain +0.0500 [+0.0100, +0.0800]"
    for part in ("training", "8s", "3.210", gain, "nov22-0005 [red]wider", "#4     discard", ": 1 kept, 1 discarded "):
        assert part in shown
    display.close()
    assert "a [line] above" in console.file.getvalue()


def shown_at(width: int, loops: int = 1) -> tuple[TerminalDisplay, list[str]]:
    """A display of loops that train, and what it shows on a terminal of that width."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    display = TerminalDisplay(console)
    for number in range(loops):
        state = {"phase": "training", "fraction": 0.5, "seconds": 150.0, "loss": 3.214}
        display.loop_state(
            f"{BRANCH}-gpu{number}", experiment=f"nov22-gpu{number}-0042", title="EMBEDDING_LR 0.6 -> 0.9", **state
        )
    with console.capture() as capture:
        console.print(display.render())
    return display, capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 119, 120, 160])
@pytest.mark.parametrize("loops", [1, 8])
def test_the_idea_that_is_tried_is_shown_at_every_width(width, loops):
    display, lines = shown_at(width, loops)
    display.close()
    for number in range(loops):
        assert any(f"nov22-gpu{number}-0042 EMBEDDING_LR 0.6 -> 0.9" in line for line in lines), lines
    assert all(len(line.rstrip()) <= width for line in lines)


def test_the_last_verdicts_are_whole_once_nothing_is_redrawn():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    display = TerminalDisplay(console)
    display.verdict(replace(record(), verdict=Verdict(decision="discard", reason="word " * 30 + "end", gain=0.0)))
    display.loop_state(BRANCH, phase="ended")
    display.close()
    assert "end" in console.file.getvalue().split()


def test_an_idea_is_shown_with_what_decides_about_it_and_other_runs_with_their_score_alone() -> None:
    estimated = Verdict(decision="discard", reason="P(helps) 0.62", gain=0.23, effect=0.0042, helps=0.62)
    shown = [verdict_line(replace(record(kind=kind), verdict=estimated)) for kind in ("explore", "merge")]
    assert ", P(helps) 0.62  " in shown[0] and not any("0.23" in line for line in shown) and ", P" not in shown[1]


def test_an_ideas_line_has_its_effect_and_what_decides_beside_the_probability_that_it_helps() -> None:
    decides = Verdict(decision="discard", reason="P(helps) 0.62 < 0.70 decides; and more", effect=0.0042, low=-0.01, high=0.02,
                      helps=0.62)  # fmt: skip
    rival = replace(decides, reason="P(helps) 0.81 >= 0.70, but a rival is kept; and more", helps=0.81)
    alone, beside = (verdict_line(replace(record(), verdict=verdict)) for verdict in (decides, rival))
    assert alone.endswith(f"{record().experiment.title}: effect +0.0042 [-0.0100, +0.0200]")
    assert "but a rival is kept" in beside and "and more" not in beside


@pytest.mark.parametrize(
    ("kind", "word"),
    [("explore", "discard"), ("merge", "discard"), ("control", "control"), ("confirm", "confirm"), ("wave", "wave")],
)
def test_what_tries_no_idea_is_not_called_a_discard(kind: str, word: str) -> None:
    assert verdict_line(record("discard", kind=kind)).split()[2] == word and record("discard", kind=kind).outcome == word
    assert record("crash", kind=kind).outcome == "crash"


@pytest.mark.parametrize("branch", ["autoresearch/a", "autoresearch/nov22-hand", "autoresearch/a-tag-of-many-words-gpu11"])
@pytest.mark.parametrize("number", [0, 12345])
def test_a_number_and_its_decision_are_two_words(branch: str, number: int) -> None:
    kept = record()
    line = verdict_line(replace(kept, experiment=replace(kept.experiment, branch=branch, number=number)))
    assert line.split()[:3] == [branch.removeprefix("autoresearch/"), f"#{number}", "keep"]
