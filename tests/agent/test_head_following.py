"""A loop's branch beside the head of its group."""

import asyncio
from pathlib import Path

import pytest

from agent.loop import ResearchLoop
from agent.researchers.scripted import Step
from tests.agent.loops_of_a_group import Group
from tests.agent.samples import TRAIN_PY


def test_a_loop_that_has_ended_is_brought_to_the_head_that_others_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    group = Group(tmp_path, TRAIN_PY, lambda text: 1.5 - 0.3 * ("= 1.2" in text))
    ended, going = group.open([], [Step(title="rate", constants={"EMBEDDING_LR": 1.2})])

    async def research() -> None:
        for loop in (ended, going):
            await loop.start()
        await going.step()
        for loop in (ended, going):
            await loop.close()

    asyncio.run(research())
    assert at(going) == group.store.groups.head("autoresearch/mar8").commit != at(ended)
    ended.follow_head()
    assert at(ended) == at(going)
    group.store.close()


def at(loop: ResearchLoop) -> str:
    return loop.worktree.head()
