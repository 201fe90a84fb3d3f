"""What is submitted from outside is taken up before a researcher is asked, once, also by a farm that was killed; or refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import submissions
from agent.loop import ResearchLoop
from agent.researcher import Context
from agent.researchers.scripted import Step
from agent.submissions import RESEARCHER, Submission, submit, waiting
from research.errors import UserError
from results.experiment import ExperimentRecord
from results.group_entries import SUBMISSION_ENDED
from tests.agent.loops_of_a_group import GROUP, Group
from tests.agent.samples import TRAIN_PY

LONGER = "X" * 5_000


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """A group of one loop whose baseline has a score."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    made = Group(tmp_path, TRAIN_PY, lambda train_py: 2.0 if "DEPTH = 4" in train_py else 3.0)
    made.research(0, ())
    yield made
    made.store.close()


def submitted(group: Group, train_py: str, *, title: str = "deeper", base: str | None = None) -> str:
    """The id of a submission on the head."""
    head = group.store.groups.head(GROUP)
    assert head is not None
    return submit(group.store, Submission(group=GROUP, title=title, hypothesis="It sees\nmore.\x1b[31m", train_py=train_py,
                                          base=base or head.commit))  # fmt: skip


def outcomes(group: Group) -> dict[str, dict[str, Any]]:
    return {event["id"]: event for event in group.store.events(SUBMISSION_ENDED, GROUP)}


def of_submissions(records: list[ExperimentRecord]) -> list[str]:
    return [record.experiment.title for record in records if record.experiment.researcher == RESEARCHER]


def test_each_becomes_one_experiment_whichever_loop_takes_it_up(group: Group) -> None:
    ids = [submitted(group, TRAIN_PY.replace("= 2 ", f"= {depth} "), title=f"{depth} \n layers") for depth in (5, 6, 7)]
    assert ids == ["mar8-s0000", "mar8-s0001", "mar8-s0002"] and len(waiting(group.store, GROUP)) == 3
    done = [record for records in group.research(9, (), ()) for record in records]
    assert sorted(of_submissions(done)) == ["5 layers", "6 layers", "7 layers"]
    assert waiting(group.store, GROUP) == []
    experiment = group.store.record(outcomes(group)[ids[0]]["experiment"]).experiment
    assert experiment.title == "5 layers" and experiment.changes == {"DEPTH": (2, 5)}
    assert "\x1b" not in experiment.hypothesis


def test_one_that_arrives_while_a_researcher_thinks_is_not_kept_waiting(group: Group) -> None:
    (loop,) = group.open(())

    class Thinks:
        name = "thinks"

        async def propose(self, context: Context) -> Any:
            submitted(group, TRAIN_PY.replace("= 2 ", "= 4 "))
            await asyncio.Event().wait()

        async def close(self) -> None:
            pass

    loop._proposer._researcher = Thinks()

    async def one_step(loop: ResearchLoop) -> ExperimentRecord:
        await loop.start()
        record = await asyncio.wait_for(loop.step(), 20.0)
        await loop.close()
        return record

    assert of_submissions([asyncio.run(one_step(loop))]) == ["deeper"]


def test_a_farm_that_was_killed_before_it_recorded_what_became_of_one_finds_the_experiment(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = submitted(group, TRAIN_PY.replace("= 2 ", "= 5 "))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.new_experiments.record_experiment", killed)
    with pytest.raises(KeyboardInterrupt):
        group.research(1, ())
    monkeypatch.undo()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    group.research(3, ())
    made = [record for record in group.store.records(f"{GROUP}-cpu0") if record.experiment.researcher == RESEARCHER]
    assert len(made) == 1 and made[0].verdict is not None
    assert outcomes(group)[name]["experiment"] == made[0].experiment.id


def test_one_on_an_older_head_is_rebased_or_refused_with_the_reason(group: Group) -> None:
    first = group.store.groups.head(GROUP)
    assert first is not None
    submitted(group, TRAIN_PY.replace("= 2 ", "= 4 "))
    group.research(9, ())
    assert group.store.groups.head(GROUP) != first
    other = submitted(group, TRAIN_PY.replace("= 0.6", "= 0.7"), base=first.commit)
    same = submitted(group, TRAIN_PY.replace("= 2 ", "= 8 "), base=first.commit)
    group.research(9, ())
    assert any("DEPTH = 4" in text and "EMBEDDING_LR = 0.7" in text for text in group.ran)
    assert "experiment" in outcomes(group)[other] and "head has changed" in outcomes(group)[same]["reason"]


@pytest.mark.parametrize(
    ("train_py", "title", "says"),
    [
        (TRAIN_PY + "def", "half", "does not parse"),
        (TRAIN_PY + "\nexec('x')\n", "text", "exec"),
        (TRAIN_PY, "nothing", "mar8-cpu0-0000"),
        (TRAIN_PY.replace("= 2 ", "= 3 "), " \n ", "title"),
    ],
)
def test_what_is_not_worth_a_run_is_refused_at_once(group: Group, train_py: str, title: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        submitted(group, train_py, title=title)
    assert "\n" not in str(refused.value) and waiting(group.store, GROUP) == []


def test_one_of_an_unknown_commit_or_group_is_refused(group: Group) -> None:
    edit = TRAIN_PY.replace("= 2 ", "= 3 ")
    with pytest.raises(UserError, match="commit"):
        submitted(group, edit, base="f" * 40)
    with pytest.raises(UserError, match="no branch"):
        submit(group.store, Submission(group="autoresearch/x", title="t", hypothesis="", train_py=edit, base="f" * 40))


def test_a_duplicate_of_one_that_waits_is_refused_and_so_is_one_too_many(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MOST_WAITING", 2)
    first = submitted(group, TRAIN_PY.replace("= 2 ", "= 3 "), title=LONGER)
    with pytest.raises(UserError, match=first):
        submitted(group, "# again\n" + TRAIN_PY.replace("= 2 ", "= 3 "))
    submitted(group, TRAIN_PY.replace("= 2 ", "= 5 "))
    with pytest.raises(UserError, match="2 submissions wait"):
        submitted(group, TRAIN_PY.replace("= 2 ", "= 6 "))
    assert len(waiting(group.store, GROUP)[0]["title"]) <= submissions.MAX_TITLE


def test_a_full_queue_leaves_every_second_idea_to_the_researcher(group: Group) -> None:
    """Also to a researcher that would have follow-ups of the farm's own beside it."""
    for depth in (5, 6, 7, 8):
        submitted(group, TRAIN_PY.replace("= 2 ", f"= {depth} "), title=f"{depth} layers")
    steps = [Step(title=str(rate), constants={"EMBEDDING_LR": rate}) for rate in (0.7, 0.8, 0.9)]
    (done,) = group.research(6, steps)
    assert [record.experiment.researcher for record in done] == [RESEARCHER, "agent"] * 3


def test_who_is_out_of_ideas_leaves_its_turns_to_the_queue(group: Group) -> None:
    for depth in (5, 6, 7):
        submitted(group, TRAIN_PY.replace("= 2 ", f"= {depth} "), title=f"{depth} layers")
    (done,) = group.research(9, ())
    assert of_submissions(done) == ["5 layers", "6 layers", "7 layers"]
