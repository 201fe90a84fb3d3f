"""Several loops on one head: merges, waves, flips and drops, and what a kill -9 leaves of them."""

import asyncio
from pathlib import Path

import pytest

from tests.agent.shared_lab import SharedLab


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


def test_x(tmp_path: Path) -> None:
    lab = SharedLab(tmp_path)
    asyncio.run(lab.research())
    for row in lab.rows("SELECT id, kind, title, decision, val_bpb, gain, reason FROM history ORDER BY created, id"):
        print(row)
    for row in lab.rows("FROM heads"):
        print(row)
    for row in lab.rows("SELECT id, effect, low, high, helps, in_head, is_near_miss FROM estimates"):
        print(row)
    for e in lab.listener.events:
        print(e)
