"""What a loop decides about a run that had an unusual share of the machine."""

import asyncio
from pathlib import Path

import pytest

from agent.researchers.scripted import Step
from agent.shared_research import entering, leaving
from results.experiment import ExperimentRecord, Proposal
from results.group_entries import CONTROL_REQUEST, DROPPED_BY_A_PERSON, RULING, Ruled, Ruling
from results.group_verdicts import is_postponed
from results.groups import ruling_event
from tests.agent.loops_of_a_group import GROUP, Group
from tests.agent.samples import TRAIN_PY

TINY = [Step(title=f"depth {depth}", constants={"DEPTH": depth}) for depth in range(3, 9)]
RATE = Step(title="rate", constants={"EMBEDDING_LR": 1.2})
OTHER = Step(title="other", replace=(("return None", "return 7"),))


def test_a_merge_with_an_unusual_share_runs_once_more_and_its_verdict_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    group = Group(tmp_path, TRAIN_PY, lambda text: 1.5 - 0.3 * ("= 1.2" in text) - 0.3 * ("return 7" in text))

    def busy_for_the_first_merge(text: str) -> float:
        return 0.6 if group.ran.count(text) == 1 and "= 1.2" in text and "return 7" in text else 0.98

    group.cpu_share = busy_for_the_first_merge
    every = group.research(4, [*TINY[:2], RATE, TINY[2]], [*TINY[3:5], OTHER, TINY[5]])
    merges = [record for records in every for record in records if record.experiment.kind == "merge"]
    assert [len(record.runs) for record in merges] == [2]
    verdict = merges[0].verdict
    assert verdict is not None and verdict.decision == "keep" and "39% less of the machine than usual" in verdict.reason
    others = [record for records in every for record in records if record.experiment.kind == "explore"]
    assert {len(record.runs) for record in others} == {1}
    group.store.close()


def test_a_merge_that_was_disturbed_in_both_runs_is_no_head_and_runs_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    runs_of_both = [0]

    def is_disturbed(text: str) -> bool:
        return "= 1.2" in text and "return 7" in text and runs_of_both[0] <= 2

    def score(text: str) -> float:
        runs_of_both[0] += "= 1.2" in text and "return 7" in text
        return 1.3 if is_disturbed(text) else 1.5 - 0.3 * ("= 1.2" in text) - 0.3 * ("return 7" in text)

    group = Group(tmp_path, TRAIN_PY, score)
    group.cpu_share = lambda text: 0.3 if is_disturbed(text) else 0.98
    every = group.research(9, [*TINY[:2], RATE, *TINY[2:]], [*TINY[3:5], OTHER, TINY[5], *TINY[:3]])
    merges = sorted(
        (record for records in every for record in records if record.experiment.kind == "merge"),
        key=lambda record: record.experiment.created,
    )
    assert len(merges[0].runs) == 2 and decision(merges[0]) == "discard" and is_postponed(merges[0])
    assert [decision(record) for record in merges[1:]] == ["keep"], "it runs again, and is verified then"
    group.store.close()


def test_a_control_with_an_unusual_share_runs_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    group = Group(tmp_path, TRAIN_PY, lambda text: 1.5)
    group.cpu_share = lambda text: 0.98
    group.research(4, TINY)
    group.store.add_request(GROUP, CONTROL_REQUEST)
    group.cpu_share = lambda text: 0.6
    (records,) = group.research(1, TINY)
    assert [(record.experiment.kind, len(record.runs)) for record in records] == [("control", 2)]
    assert records[0].verdict is not None and "39% less of the machine than usual" in records[0].verdict.reason
    group.store.close()


def test_an_idea_that_a_person_takes_back_after_its_drop_enters_the_head_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand on one device, where a farm lets a merge wait for another change: `farm try` without an edit makes it."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    group = Group(tmp_path, TRAIN_PY, lambda text: 1.2 if "= 1.2" in text else 1.5)

    async def by_hand() -> None:
        [loop] = group.open([])
        await loop.start()
        text = RATE.apply(loop.worktree.train_py(loop.head().commit))
        kept = await loop.try_now(Proposal(title="rate", hypothesis="", train_py=text, researcher="you"))
        rulings: list[tuple[Ruling, str]] = [("bar", DROPPED_BY_A_PERSON), ("unbar", "a person took that back")]
        for ruling, reason in rulings:
            ruled = Ruled(ruling=ruling, patches=(kept.experiment.id,), reason=reason)
            group.store.add_event(RULING, ruling_event(GROUP, ruled))
            assert (leaving if ruling == "bar" else entering)(loop.shared) == {kept.experiment.id}
            while await loop.run_requested() is not None or leaving(loop.shared) or entering(loop.shared):
                await loop.finish()
            assert (kept.experiment.id in loop.head().patches) == (ruling == "unbar")
        await loop.close()

    asyncio.run(by_hand())
    group.store.close()


def test_a_kept_idea_that_no_longer_pays_is_known_to_leave_the_head_until_it_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, where no loop makes the merge by itself: `farm try` says so, and makes it when there is no edit to try."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    lucky = [1.47]
    group = Group(tmp_path, TRAIN_PY, lambda text: (lucky.pop() if lucky else 1.62) if "= 1.2" in text else 1.5)

    async def by_hand() -> None:
        [loop] = group.open([])
        await loop.start()
        text = RATE.apply(loop.worktree.train_py(loop.head().commit))
        proposal = Proposal(title="rate", hypothesis="", train_py=text, researcher="you")
        kept = await loop.try_now(proposal)
        assert decision(kept) == "keep" and not leaving(loop.shared)
        again = kept
        for _ in range(5):
            again = await loop.try_again(again, proposal)
        assert decision(again) == "discard" and leaving(loop.shared) == {kept.experiment.id}
        assert loop.head().commit == kept.experiment.commit, "nothing has run yet without it"
        while await loop.run_requested() is not None or leaving(loop.shared):
            await loop.finish()
        assert kept.experiment.id not in loop.head().patches and not leaving(loop.shared)
        await loop.close()

    asyncio.run(by_hand())
    group.store.close()


def decision(record: ExperimentRecord) -> str | None:
    return None if record.verdict is None else record.verdict.decision
