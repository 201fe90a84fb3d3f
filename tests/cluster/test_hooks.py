"""Hooks get JSON, have a limited time, and end nothing when they fail."""

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.farm_events import MESSAGES
from cluster.hooks import HOOK_FAILED, Hook, Hooks, check_hook
from research.errors import UserError
from results.store import Store
from tests.in_time import in_time
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, add, make_branch, make_experiment


class Observer:
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_event(self, kind: str, **fields: Any) -> None:
        self.told.append(MESSAGES[kind].format(**fields))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(with_tables(tmp_path / "home")) as opened:
        opened.add_branch(make_branch())
        yield opened


def script(tmp_path: Path, text: str) -> str:
    (path := tmp_path / "hook.py").write_text(text)
    return f"{shlex.quote(sys.executable)} -S -E {shlex.quote(str(path))}"


def run(store: Store, commands: dict[Hook, str | None], does: Callable[[Hooks], Any], **options: Any) -> list[str]:
    observer = Observer()

    async def farm() -> None:
        hooks = Hooks(commands, store=store, observer=observer, **options)
        if (waiting := does(hooks)) is not None:
            await waiting
        await hooks.close()

    asyncio.run(farm())
    assert len(store.events(HOOK_FAILED, NAME)) == len(observer.told)
    return observer.told


def test_both_hooks_get_json_and_the_first_only_once(store: Store, tmp_path: Path) -> None:
    seen = tmp_path / "seen.jsonl"
    command = script(tmp_path, f"import sys\nopen({str(seen)!r}, 'a').write(sys.stdin.read() + chr(10))\n")
    record = add(store, 1, "discard", 1.25)

    async def twice(hooks: Hooks) -> None:
        await hooks.before(record.experiment)
        await hooks.before(record.experiment)
        hooks.after(record)

    assert run(store, {"before-experiment": command, "after-experiment": command}, twice) == []
    before, after = map(json.loads, seen.read_text().splitlines())
    assert (before["hook"], before["experiment"], before["title"]) == ("before-experiment", record.experiment.id, "idea 1")
    assert (after["hook"], after["decision"], after["val_bpb"]) == ("after-experiment", "discard", 1.25)
    assert "decision" not in before and not any("audit" in name for name in after)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys\nprint('no network', file=sys.stderr)\nsys.exit(3)", "no network"),
        ("import time\ntime.sleep(60)", "killed after"),
        ("import os\nos.close(0)\nos._exit(4)", "status 4"),
    ],
)
def test_a_hook_that_fails_is_told_and_recorded(store: Store, tmp_path: Path, text: str, reason: str) -> None:
    commands: dict[Hook, str | None] = {"before-experiment": script(tmp_path, text)}
    limit = 0.5 if "sleep" in text else 20.0
    (told,) = run(store, commands, lambda hooks: hooks.before(make_experiment(1)), timeout_s=limit)
    assert reason in told and "before-experiment" in told and "mar8-0001" in told


def test_a_program_that_is_gone_ends_nothing(store: Store) -> None:
    record = add(store, 1, "keep", 1.25)
    (told,) = run(store, {"after-experiment": "/nowhere/notify"}, lambda hooks: hooks.after(record))
    assert "can't be started" in told


@pytest.mark.parametrize("command", ["'half", "/nowhere/notify --now", "''"])
def test_a_command_that_is_none_is_refused_before_the_start(command: str) -> None:
    with pytest.raises(UserError, match="--after-experiment"):
        check_hook("--after-experiment", command)
    check_hook("--after-experiment", None)
    check_hook("--after-experiment", sys.executable)


def test_a_hook_that_still_runs_when_the_farm_ends_is_ended_soon(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.hooks.END_SECONDS", 0.2)
    record, began = add(store, 1, "discard", 1.25), time.monotonic()
    endless = script(tmp_path, "import time\ntime.sleep(600)")
    (told,) = run(store, {"after-experiment": endless}, lambda hooks: hooks.after(record))
    assert "killed" in told and in_time(began, 10)
