"""`farm drop`, `farm combine` and `farm baseline --again`, on a home whose loops then go on, with real git and a real store."""

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.repo.branch_names import worktree_folder
from agent.researchers.scripted import Step
from cluster.cli import main
from cluster.command_parser import make_parser
from cluster.display import TerminalDisplay
from cluster.end_summary import summarise, summary_lines
from cluster.home import Home
from cluster.local_api import FarmServer, Submitted
from cluster.person_requests import Answer, Ask, pending, record
from cluster.resuming import log_options
from research.result import RunResult, RunSpec
from results import policy
from results.expected_gain import expected_gain
from results.experiment import Experiment, Verdict
from results.foreign_import import record_import
from results.group_entries import COMMITTED_BY_A_PERSON, GAIN, HEAD, RULING, Ruled
from results.groups import ruling_event
from results.history import read_history
from results.query import Table
from results.store import Store
from tests.agent import shared_lab
from tests.agent.loops_of_a_group import Group
from tests.agent.shared_lab import GROUP, SharedLab
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, make_branch, make_experiment, make_run

FIGURES = re.compile(r"val_bpb (\S+) -> (\S+) expected: gain (\S+) \[(\S+), (\S+)\]")

DECISION = "SELECT arg_max(decision, seq) FROM verdicts WHERE experiment_id = '{}'"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedLab]:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    made = SharedLab(tmp_path, loops=1)
    yield made
    made.store.close()


async def research(lab: SharedLab, steps: int) -> None:
    """So many steps; 0: a session whose limits are reached already."""
    (loop,) = lab.open()
    await loop.start()
    for _ in range(steps):
        await loop.step()
    if not steps:
        await loop.finish()
    await loop.close()


def typed(lab: SharedLab, *words: str) -> int:
    """The exit status of a command on the lab's home, while no farm runs there."""
    lab.store.close()
    try:
        return main([*words, "--home", str(lab.home)])
    finally:
        lab.store = Store.open(lab.home)


def test_a_dropped_idea_leaves_the_head_by_a_merge_and_stays_out(lab: SharedLab, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(research(lab, 5))
    [(before,)] = lab.rows("SELECT patches FROM heads WHERE is_current")
    state = lab.store.groups.state(GROUP).farm
    dropped = next(name for name in before if not policy.needed(state, name, state.head))
    count = len(lab.rows("SELECT * FROM heads"))
    for words in ("--loops=3", "--loops=2 --engine=local --devices=cpu"):
        log_options(Home(lab.home), "mar8", words)
    log_options(Home(lab.home), "another", "--loops=4", command="try")

    assert typed(lab, "drop", dropped) == 0
    first, second = capsys.readouterr().out.splitlines()
    told = shown(lab, "status", capsys)
    assert f"requested: {dropped} (" in told and "the head still has 1 idea that a person has dropped" in told
    assert dropped in first and GROUP in first
    command = make_parser().parse_args(shlex.split(second.partition("farm ")[2]))
    assert (command.tag, command.loops, command.engine, str(command.devices)) == ("mar8", 2, "local", "cpu")
    assert command.home == str(lab.home) and command.profile == "cpu" and command.budget
    assert lab.rows(DECISION.format(dropped)) == [("discard",)]
    assert typed(lab, "show", dropped) == 0 and "in the head until the next merge" in capsys.readouterr().out
    assert typed(lab, "drop", dropped) == 2
    said = capsys.readouterr().err
    assert "dropped already" in said and "a merge without it" in said and "farm run" in said and "--undo" in said
    assert "not in the head" not in said

    assert typed(lab, "drop", dropped, "--undo") == 0
    (said,) = capsys.readouterr().out.splitlines()
    assert "stays in the head" in said, "no run follows, so that no command begins one"
    assert dropped in said and dropped in lab.store.groups.state(GROUP).farm.head
    assert lab.rows(DECISION.format(dropped)) == [("keep",)] and "requested" not in shown(lab, "status", capsys)
    assert typed(lab, "drop", dropped, "--undo") == 2
    assert "No person has dropped" in capsys.readouterr().err
    assert typed(lab, "drop", dropped) == 0

    asyncio.run(research(lab, 3))
    merged, *later = lab.rows(f"SELECT patches, experiment_id FROM heads ORDER BY created OFFSET {count}")
    assert sorted(merged[0]) == sorted(set(before) - {dropped})
    assert lab.rows(f"SELECT kind FROM experiments WHERE id = '{merged[1]}'") == [("merge",)]
    assert all(dropped not in patches for patches, _ in later)
    assert lab.rows(DECISION.format(dropped)) == [("discard",)]
    assert "requested" not in shown(lab, "status", capsys)
    check_that_all_show_the_same_gain(lab, capsys)

    told = [(gain["commit"], gain["baseline"] - gain["gain"]) for gain in lab.store.events(GAIN, GROUP)]
    assert {(head["commit"], head["expected"]) for head in lab.store.events(HEAD, GROUP)} <= set(told), "of one moment"

    table = worktree_folder(lab.home, lab.names[0]) / "results.tsv"
    title = lab.rows(f"SELECT title FROM experiments WHERE id = '{dropped}'")[0][0]
    before_undo = table.read_text()
    assert typed(lab, "drop", dropped) == 2
    said = capsys.readouterr().err
    assert "dropped already" in said and "is without it" in said and "merge" not in said
    assert f"discard\t{title}" in before_undo
    assert typed(lab, "drop", dropped, "--undo") == 0
    farm = lab.store.groups.state(GROUP).farm
    assert dropped not in farm.head and dropped not in farm.barred, "the estimates decide on it again"
    is_kept = dropped in policy.kept(farm)
    assert ("That begins" in capsys.readouterr().out) == is_kept
    assert lab.rows(DECISION.format(dropped)) == [("keep" if is_kept else "discard",)]
    assert f"{'keep' if is_kept else 'discard'}\t{title}" in table.read_text(), "without a further run"


def test_a_drop_names_the_idea_that_a_repeat_tries_and_refuses_what_tries_none(
    lab: SharedLab, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(research(lab, 5))
    farm = lab.store.groups.state(GROUP).farm
    idea = next(name for name in farm.head if not policy.needed(farm, name, farm.head))
    first = lab.store.record(idea)
    again = replace(first.experiment, id="mar8-cpu0-0099", number=99, title="once more")
    lab.store.add_experiment(again)
    lab.store.add_run(again.id, replace(first.runs[0], run_id="mar8-cpu0-0099-1", seed=9))
    lab.store.add_verdict(again.id, Verdict(decision="keep", reason="so it is"))
    title = f"{idea} ({first.experiment.title}"
    merge = replace(again, id="mar8-cpu0-0098", number=98, kind="merge", title=f"merge: {first.experiment.title}")
    lab.store.add_experiment(merge)

    kinds = dict(lab.rows("SELECT kind, max(id) FROM experiments GROUP BY kind"))
    for kind in kinds.keys() - {"explore"}:
        for words in ((), ("--undo",)):
            assert typed(lab, "drop", kinds[kind], *words) == 2
            said = capsys.readouterr().err
            assert kind in said and "not an idea" in said and (title in said) == (not words)
    assert typed(lab, "drop", again.id) == 0
    said = capsys.readouterr().out
    assert title in said and f"{again.id} repeats" in said and "once more" not in said
    assert [lab.rows(DECISION.format(one)) for one in (idea, again.id)] == [[("discard",)]] * 2
    assert typed(lab, "drop", again.id) == 2 and title in capsys.readouterr().err
    assert typed(lab, "drop", again.id, "--undo") == 0 and title in capsys.readouterr().out
    assert [lab.rows(DECISION.format(one)) for one in (idea, again.id)] == [[("keep",)]] * 2


def test_a_drop_that_a_running_farm_records_is_in_results_tsv_at_once(lab: SharedLab) -> None:
    asyncio.run(research(lab, 5))
    farm = lab.store.groups.state(GROUP).farm
    idea = next(name for name in farm.head if not policy.needed(farm, name, farm.head))
    table = worktree_folder(lab.home, lab.names[0]) / "results.tsv"
    row = f"discard\t{lab.store.record(idea).experiment.title}\n"
    assert row not in table.read_text()
    assert record(lab.store, Ask(what="drop", group=GROUP, idea=idea)).files == ()
    assert row in table.read_text()


def test_an_undo_gives_back_what_was_before_the_drop(
    lab: SharedLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idea that a person has committed is pinned again, and is in the next head, whether or not it had left meanwhile;
    unless train.py fails with it there.
    """
    asyncio.run(research(lab, 5))
    farm = lab.store.groups.state(GROUP).farm
    pinned = next(name for name in farm.head if not policy.needed(farm, name, farm.head))
    ruling = Ruled(ruling="pin", patches=(pinned,), reason=COMMITTED_BY_A_PERSON)
    lab.store.add_event(RULING, ruling_event(GROUP, ruling))
    before = lab.store.groups.state(GROUP)
    assert typed(lab, "drop", pinned) == 0 and pinned not in lab.store.groups.state(GROUP).farm.pinned
    capsys.readouterr()
    assert typed(lab, "drop", pinned, "--undo") == 0
    assert "stays in the head" in (said := capsys.readouterr().out) and COMMITTED_BY_A_PERSON in said
    after = lab.store.groups.state(GROUP)
    assert (after.farm.head, after.farm.pinned, after.farm.barred) == (before.farm.head, before.farm.pinned, before.farm.barred)
    assert (after.why_ruled, after.pins_lifted) == (before.why_ruled, before.pins_lifted)

    assert typed(lab, "drop", pinned) == 0
    asyncio.run(research(lab, 2))
    assert pinned not in current_head(lab)
    capsys.readouterr()
    assert typed(lab, "drop", pinned, "--undo") == 0
    assert "a merge will bring it back" in (said := capsys.readouterr().out) and COMMITTED_BY_A_PERSON in said
    assert f"merge run: {pinned}" in shown(lab, "status", capsys)
    asyncio.run(research(lab, 2))
    assert pinned in current_head(lab) and pinned in lab.store.groups.state(GROUP).farm.pinned
    assert lab.rows(DECISION.format(pinned)) == [("keep",)]

    assert typed(lab, "drop", pinned) == 0
    asyncio.run(research(lab, 2))
    assert typed(lab, "drop", pinned, "--undo") == 0
    fail_merges(monkeypatch)
    asyncio.run(research(lab, 2))
    assert pinned not in current_head(lab) and pinned in lab.store.groups.state(GROUP).farm.barred
    assert lab.rows(DECISION.format(pinned)) == [("discard",)]


def current_head(lab: SharedLab) -> list[str]:
    """The ideas in the head that was recorded last."""
    [(patches,)] = lab.rows("SELECT patches FROM heads WHERE is_current")
    return list(patches)


def shown(lab: SharedLab, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that reads the journal prints."""
    assert main([command, "--home", str(lab.home)]) == 0
    return capsys.readouterr().out


def check_that_all_show_the_same_gain(lab: SharedLab, capsys: pytest.CaptureFixture[str]) -> None:
    """The live view, the end of the farm, `farm status` and the report: as estimated from all runs of the same store."""
    head = lab.store.groups.head(GROUP)
    assert head is not None
    found = expected_gain(lab.store.groups.state(GROUP), head.commit)
    assert found is not None and lab.listener.gains[-1] == found
    console = Console(width=200, color_system=None)
    display = TerminalDisplay(console)
    display.head_gain(GROUP, lab.listener.gains[-1])
    with console.capture() as live:
        console.print(display.render())
    display.close()
    capsys.readouterr()
    ended = "\n".join(summary_lines(summarise(lab.store, lab.names, seconds=1.0, ended="stopped")))
    texts = (live.get(), ended, shown(lab, "status", capsys), shown(lab, "report", capsys))
    numbers = (found.baseline, found.head, found.gain, found.low, found.high)
    figures = tuple(f"{number:{'.4f' if at < 2 else '+.4f'}}" for at, number in enumerate(numbers))
    assert [FIGURES.findall(text) for text in texts] == [[figures]] * 4


def fail_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every merge crash from now on."""
    execute = shared_lab.execute

    async def failing(experiment: Experiment, train_py: str, spec: RunSpec, report: Any) -> RunResult:
        result = await execute(experiment, train_py, spec, report)
        return replace(result, status="crash", val_bpb=None) if experiment.kind == "merge" else result

    monkeypatch.setattr(shared_lab, "execute", failing)


def test_an_idea_without_which_train_py_fails_stays_in(lab: SharedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(research(lab, 5))
    [(before,)] = lab.rows("SELECT patches FROM heads ORDER BY created DESC LIMIT 1")
    state = lab.store.groups.state(GROUP).farm
    dropped = next(name for name in before if not policy.needed(state, name, state.head))
    fail_merges(monkeypatch)
    assert typed(lab, "drop", dropped) == 0
    merges = lab.rows("SELECT count(*) FROM experiments WHERE kind = 'merge'")[0][0]
    asyncio.run(research(lab, 2))
    assert lab.rows("SELECT count(*) FROM experiments WHERE kind = 'merge'") == [(merges + 1,)]
    assert lab.rows(DECISION.format(dropped)) == [("keep",)]
    assert dropped in lab.store.groups.state(GROUP).farm.head


def test_a_running_farm_is_asked_and_its_loop_runs_the_baseline_again(
    lab: SharedLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it records what is imported."""
    asyncio.run(research(lab, 1))
    home = Home(lab.home).create()

    def ask(asked: Ask) -> Answer:
        return replace(record(lab.store, asked), is_taken_up=True)

    with home.lock():
        server = FarmServer(
            home,
            status=dict,
            query=lambda sql, audience: Table(columns=(), rows=()),
            ask=ask,
            record_import=lambda event, replace: record_import(lab.store, event, replace=replace),
            submit=lambda fields: Submitted(id="s0", is_taken_up=True),
            stop=lambda: None,
        )
        server.start()
        assert main(["baseline", "--again", "--home", str(home.folder)]) == 0
        assert "running farm" in capsys.readouterr().out
        assert main(["baseline", "--again", "mar8", "--home", str(home.folder)]) == 2
        assert "already" in capsys.readouterr().err
        (theirs := tmp_path / "theirs.tsv").write_text("commit\tval_bpb\tstatus\na\t1.0\tkeep\n")
        assert main(["import", str(theirs), "--home", str(home.folder)]) == 0
        assert lab.rows("SELECT source, commit FROM foreign_results") == [("theirs.tsv", "a")]
        assert [pending(history.group) for history in read_history(home.journal)] == [["the baseline again, as a control"]]
        server.close()
        assert main(["import", str(theirs), "--home", str(home.folder)]) == 2
        assert main(["baseline", "--again", "--home", str(home.folder)]) == 2  # the home is held, and nobody answers
    asyncio.run(research(lab, 0))
    assert [pending(history.group) for history in read_history(home.journal)] == [[]]
    baseline, last = lab.rows("SELECT kind, commit FROM experiments WHERE kind IN ('baseline', 'control') ORDER BY seq")
    assert (baseline[0], last[0]) == ("baseline", "control") and baseline[1] == last[1]
    assert lab.store.open_requests(GROUP) == []


def close_calls(home: Path, count: int, **branch: Any) -> None:
    """A history with ideas that gained little, each with a constant of its own."""
    with Store.open(with_tables(home)) as store:
        store.add_branch(make_branch(**branch))
        for number in range(count + 1):
            idea = (
                {"slots": (f"CONSTANT_{number}",), "diff": f"+CONSTANT_{number} = 1", "patches": (f"mar8-{number:04d}",)}
                if number
                else {}
            )
            experiment = make_experiment(number, **idea)
            store.add_experiment(experiment)
            for again in range(1 if number else 2):
                score = 0.9896 if number else 0.99
                store.add_run(experiment.id, make_run(f"{experiment.id}-{again}", score, peak_memory_mb=None))
            store.add_verdict(experiment.id, Verdict(decision="discard" if number else "keep", reason="so it is"))


def test_a_wave_is_requested_where_there_are_near_misses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    close_calls(tmp_path, 4)
    assert main(["combine", "--home", str(tmp_path)]) == 0
    assert "4 of the 4" in capsys.readouterr().out
    assert main(["combine", "mar8", "--home", str(tmp_path)]) == 2
    with Store.open(with_tables(tmp_path)) as store:
        assert [request["request"] for request in store.open_requests(NAME)] == ["wave"]
        ended = summary_lines(summarise(store, [NAME], seconds=1.0, ended="stopped"))
        assert any("a wave of near-misses" in line and "--experiments" in line for line in ended)
    capsys.readouterr()
    assert main(["status", "--json", "--home", str(tmp_path)]) == 0
    [branch] = json.loads(capsys.readouterr().out)["branches"].values()
    assert branch["requested"] == ["a wave of near-misses"]


@pytest.mark.parametrize(
    ("words", "fact", "count", "branch"),
    [
        (("combine",), "2 near-misses", 2, {}),
        (("combine",), "greedy", 4, {"rule": "greedy"}),
        (("combine", "mar9"), "'mar9'", 4, {}),
        (("drop", "nothing"), "'nothing'", 1, {}),
        (("drop", "mar8-0001"), "not in the head", 1, {}),
        (("drop", "mar8-0001"), "no baseline", -1, {}),
        (("baseline", "--again"), "no baseline", -1, {}),
        (("baseline",), "--again", 1, {}),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    tmp_path: Path, words: tuple[str, ...], fact: str, count: int, branch: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    close_calls(tmp_path, count, **branch)
    if count < 0:
        with Store.open(with_tables(tmp_path)) as store:
            store.add_experiment(make_experiment(1))
    try:
        status: Any = main([*words, "--home", str(tmp_path)])
    except SystemExit as refused:
        status = refused.code
    said = capsys.readouterr().err
    assert status == 2 and fact in said and len(said.splitlines()) == 1


def test_an_idea_under_a_later_edit_can_t_be_dropped_before_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused at once, and not promised a merge that can't be made."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    text = "FIRST = [1]\nSECOND = [1]\n\n\ndef build():\n    return FIRST, SECOND\n"
    group = Group(tmp_path, text, lambda tried: 2.0 - 0.3 * tried.count("[2]"))
    steps = [Step(title=name, replace=((f"{name} = [1]", f"{name} = [2]"),)) for name in ("FIRST", "SECOND")]
    group.research(4, steps)
    head = group.store.groups.head(GROUP)
    assert head is not None and len(head.patches) == 2
    group.store.close()
    Home(group.home).record_repository(group.repo)
    assert main(["drop", head.patches[0], "--home", str(group.home)]) == 2
    assert f"{head.patches[1]} changed the same lines later" in capsys.readouterr().err
    assert main(["drop", head.patches[1], "--home", str(group.home)]) == 0
