"""`farm suggest`, `farm pause`, `farm resume` and `farm stop BRANCH`: on a home alone, and through a farm that runs on it."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import local_api
from cluster.cli import main
from cluster.home import Home
from cluster.local_api import FarmServer, Submitted
from cluster.loop_control import LoopControl
from cluster.person_requests import Answer, Ask, record
from cluster.resuming import log_options
from cluster.steering_requests import LONGEST_SUGGESTION, unread_note
from research.errors import UserError
from results.foreign_import import record_import
from results.query import Table
from results.steering import close_suggestion, is_paused, suggestions_of
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, make_branch

LOOPS = (f"{NAME}-gpu0", f"{NAME}-gpu1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with two loops of one group, which have not measured anything yet."""
    monkeypatch.chdir(tmp_path)
    with Store.open(with_tables(tmp_path / "home")) as store:
        for number, name in enumerate(LOOPS):
            store.add_branch(make_branch(name, tag="mar8", loop=number, group=NAME))
    return Home(tmp_path / "home").create()


def typed(home: Home, *words: str) -> int:
    return main([*words, "--home", str(home.folder)])


def status(home: Home, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert typed(home, "status") == 0
    return capsys.readouterr().out


def test_a_suggestion_is_recorded_listed_and_withdrawn(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    log_options(home, "mar8", "--researcher claude --loops 2")
    assert typed(home, "suggest", "try\n  QK-norm", "--tag", "mar8") == 0
    said = capsys.readouterr().out
    assert "1" in said and NAME in said and "no loop reads it" not in said
    assert typed(home, "suggest", "try ReLU^2") == 0
    assert "try QK-norm" in (told := status(home, capsys)) and "try ReLU^2" in told
    assert typed(home, "suggest", "--withdraw", "1") == 0
    with Store.open(home.folder) as store:
        close_suggestion(store, NAME, 2, experiment="mar8-gpu0-0004")
    assert "QK-norm" not in status(home, capsys)
    assert typed(home, "suggest", "--list") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "withdrawn" in first and "QK-norm" in first and "mar8-gpu0-0004" in second
    for words, reason in ((("--withdraw", "2"), "mar8-gpu0-0004"), (("--withdraw", "9"), "1, 2")):
        assert typed(home, "suggest", *words) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [(), ("try X", "--list"), ("x" * (LONGEST_SUGGESTION + 1),), (" ",), ("try X", "--tag", "other")]
)
def test_what_is_no_suggestion_is_refused_in_one_line(
    home: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    try:
        assert typed(home, "suggest", *words) == 2
    except SystemExit as end:  # the parser's own
        assert end.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with Store.open(home.folder) as store:
        assert suggestions_of(store, NAME) == []


def test_that_nobody_reads_a_suggestion_is_said_at_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(home, "suggest", "try X") == 0
    assert "no loop reads it: search" in capsys.readouterr().out
    branches = [make_branch(name, loop=number) for number, name in enumerate(LOOPS)]
    assert unread_note("claude:1,search:1", branches) == "" == unread_note("command:sh x.sh", branches)
    assert "scripted" in unread_note("scripted:a.jsonl", branches)
    assert "search" in unread_note("claude:1,search:1", [one for one in branches if unread_note("claude:1,search:1", [one])])


def test_a_loop_is_paused_and_resumed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(home, "pause", "mar8-gpu1") == 0
    assert LOOPS[1] in capsys.readouterr().out
    assert f"paused: {LOOPS[1]}" in (told := status(home, capsys)) and f"paused: {LOOPS[0]}" not in told
    assert typed(home, "status", "--json") == 0
    branches = json.loads(capsys.readouterr().out)["branches"]
    assert [branches[name]["paused"] for name in LOOPS] == [False, True]
    assert f"resume --home {home.folder} {LOOPS[1]}`" in told, "as it can be pasted"
    assert typed(home, "pause", LOOPS[1]) == 2
    assert "already" in (said := capsys.readouterr().err) and f"resume --home {home.folder} {LOOPS[1]}`" in said
    assert typed(home, "pause", "mar8") == 2, "one of them is paused already"
    assert LOOPS[0] in capsys.readouterr().out
    assert typed(home, "resume", "mar8") == 0
    with Store.open(home.folder) as store:
        assert not any(is_paused(store, name) for name in LOOPS)
    for words in (("pause", "nobody"), ("resume", "mar8-gpu0"), ("stop", "mar8-gpu0")):
        capsys.readouterr()
        assert typed(home, *words) == 2
        assert capsys.readouterr().err.count("\n") == 1


@contextmanager
def running_farm(home: Home, store: Store, control: LoopControl | None = None) -> Iterator[None]:
    """A farm that answers, whose loops are those of `control`."""

    def ask(asked: Ask) -> Answer:
        if asked.what == "stop loop" and control is not None:
            return Answer(recorded=control.stop_from_thread(asked.branch), is_taken_up=True)
        return replace(record(store, asked), is_taken_up=True, note="no loop reads it: search")

    with home.lock():
        server = FarmServer(
            home,
            status=lambda: {"home": str(home.folder), "tag": "mar8"},
            query=lambda sql, audience: Table(columns=(), rows=()),
            ask=ask,
            record_import=lambda event, replace: record_import(store, event, replace=replace),
            submit=lambda fields: Submitted(id="s0", is_taken_up=True),
            stop=lambda: None,
        )
        server.start()
        try:
            yield
        finally:
            server.close()


def test_a_running_farm_records_what_it_is_told(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(home.folder) as store, running_farm(home, store):
        assert typed(home, "suggest", "try X") == 0
        assert "no loop reads it: search" in capsys.readouterr().out
        assert [one.text for one in suggestions_of(store, NAME)] == ["try X"]
        assert typed(home, "pause", "mar8") == 0 and all(is_paused(store, name) for name in LOOPS)
        assert typed(home, "resume", "mar8-gpu0") == 0
        assert [is_paused(store, name) for name in LOOPS] == [False, True]
        capsys.readouterr()
        assert typed(home, "stop", "mar8-gpu0") == 2 and "no loop that runs" in capsys.readouterr().err


def test_what_names_no_tag_means_that_of_the_running_farm(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Although the branch of another one is newer."""
    with Store.open(home.folder) as store:
        store.add_branch(make_branch("autoresearch/evening", tag="evening", group="autoresearch/evening"))
        assert typed(home, "suggest", "--list") == 0 and "autoresearch/evening" in capsys.readouterr().out
        with running_farm(home, store):
            assert typed(home, "suggest", "try X") == 0
            said = capsys.readouterr()
            assert NAME in said.out and "mar8" in said.err and "--tag evening" in said.err
            assert typed(home, "combine") == 2 and NAME in capsys.readouterr().err, "as of its group, which has no score yet"
            assert typed(home, "suggest", "try Y", "--tag", "evening") == 0
            assert "mar8" not in capsys.readouterr().err
        assert [one.text for one in suggestions_of(store, NAME)] == ["try X"]
        assert [one.text for one in suggestions_of(store, "autoresearch/evening")] == ["try Y"]


def test_a_farm_that_is_starting_refuses_no_query(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the home before it can answer."""
    monkeypatch.setattr(local_api, "STARTING_SECONDS", 0.2)
    with home.lock():
        assert typed(home, "sql", "SELECT count(*) AS n FROM branches") == 0
        assert capsys.readouterr().out.split() == ["2"]
        assert typed(home, "suggest", "try X") == 2
        assert "starting" in (said := capsys.readouterr().err) and "kill" not in said, "this process is young"
        monkeypatch.setattr(local_api, "YOUNG_SECONDS", 0.0)
        assert typed(home, "suggest", "try X") == 2 and f"kill {os.getpid()}" in capsys.readouterr().err


def test_one_loop_is_stopped_and_the_other_goes_on(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    class Events:
        def __getattr__(self, name: str) -> Any:
            return lambda *arguments, **fields: None

    async def farm() -> None:
        tasks = {name: asyncio.create_task(asyncio.sleep(60, "done")) for name in LOOPS}
        control = LoopControl(tasks, Events())  # type: ignore[arg-type]
        with Store.open(home.folder) as store, running_farm(home, store, control):
            assert await asyncio.to_thread(typed, home, "stop", "mar8-gpu0") == 0
            await asyncio.wait([tasks[LOOPS[0]]], timeout=10)
            assert tasks[LOOPS[0]].cancelled() and not tasks[LOOPS[1]].done()
            assert control.was_stopped(LOOPS[0]) and not control.was_stopped(LOOPS[1])
            capsys.readouterr()
            assert await asyncio.to_thread(typed, home, "stop", "mar8-gpu0") == 2
            assert "mar8-gpu1" in capsys.readouterr().err
            with pytest.raises(UserError):
                control.stop_from_thread(LOOPS[0])
        tasks[LOOPS[1]].cancel()

    asyncio.run(farm())
