"""No program is trained twice: a loop with real git and a real store refuses repetitions, and tells the researcher why."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.compare_programs import program_of
from agent.duplicate_edits import programs_tried, reason_not_to_run
from agent.loop import ResearchLoop
from agent.repo.worktree import Worktree
from agent.researcher import Context, OutOfIdeas, Refusal
from agent.researchers.history_text import history_table
from agent.researchers.scripted import ScriptedResearcher, Step
from agent.search.search import SearchResearcher
from research.files import research_folder
from research.hyperparameters import write_constants
from results.experiment import ExperimentRecord, Proposal
from tests.agent.samples import TRAIN_PY, make_context, make_record
from tests.agent.test_loop import make_loop, result  # noqa: F401 - a fixture

COMMENT = TRAIN_PY.replace("# layers", "# layers of the model")
DEEP = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")


def tried(record: ExperimentRecord, train_py: str, **changes: Any) -> ExperimentRecord:
    return replace(record, experiment=replace(record.experiment, program=program_of(train_py), **changes))


class Agent:
    """Proposes steps in order; one that was refused is behind it, too."""

    name = "agent"

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    async def propose(self, context: Context) -> Proposal:
        done = sum(record.is_idea for record in context.records) + len(context.refused)
        if done >= len(self.steps):
            raise OutOfIdeas
        step = self.steps[done]
        return Proposal(title=step.title, hypothesis="", train_py=step.apply(context.train_py), researcher=self.name)

    async def close(self) -> None:
        pass


def proposing_agent(loop: ResearchLoop, *steps: Step) -> ResearchLoop:
    loop._proposer._researcher, loop._proposer._pauses_s = Agent(steps), (0.001, 0.01)
    return loop


def test_a_reason_names_the_earlier_result() -> None:
    records = (tried(make_record(1, val_bpb=1.25, gain=-0.25, title="deep"), DEEP),)
    context = make_context(records, programs=programs_tried(records))
    reason = reason_not_to_run(DEEP.replace("# layers", "# more"), context) or ""
    assert all(fact in reason for fact in ("e0001", "deep", "discard", "1.250000", "-0.250000"))
    assert "comments" in (reason_not_to_run(COMMENT, context) or "")
    assert reason_not_to_run(DEEP.replace("3", "4"), context) is None


def test_what_was_lost_or_not_known_is_not_tried() -> None:
    lost = tried(make_record(1, decision="lost", val_bpb=None), DEEP)
    crash = tried(make_record(2, decision="crash", val_bpb=None, reason="boom"), DEEP)
    control = tried(make_record(3), DEEP, kind="control")
    assert programs_tried([lost, control, make_record(4)]) == {}
    found = programs_tried([lost, crash])
    assert found == {program_of(DEEP): crash}
    assert "boom" in (reason_not_to_run(DEEP, make_context(programs=found)) or "")
    training = tried(make_record(5, decision=None), DEEP)
    assert "no result yet" in (reason_not_to_run(DEEP, make_context(programs=programs_tried([training]))) or "")


def test_a_loop_refuses_repetitions_and_goes_on(make_loop) -> None:  # noqa: F811
    """Refusals are on record, are shown to researchers, and outlive a restart."""
    runs: list[str] = []

    def tell(experiment, spec):
        runs.append(experiment.title)
        return result(spec, 1.5)

    steps = [
        Step(title="deep", constants={"DEPTH": 3}),
        Step(title="comment", replace=(("# layers", "# layers of the model"),)),
        Step(title="deep again", train_py=DEEP.replace("# layers", "")),
        Step(title="deeper", constants={"DEPTH": 4}),
    ]

    async def all_of_it() -> ResearchLoop:
        loop = proposing_agent(make_loop(tell), *steps)
        await loop.start()
        await loop.step()
        assert (await loop.step()).experiment.title == "deeper"
        await loop.close()
        loop = proposing_agent(make_loop(tell), *steps)
        with pytest.raises(OutOfIdeas):
            await loop.step()
        return loop

    loop = asyncio.run(all_of_it())
    assert runs == ["baseline", "baseline", "deep", "deeper"]
    refused = loop.context().refused
    assert [refusal.title for refusal in refused] == ["comment", "deep again"] and "mar8-0001" in refused[1].reason
    assert "deep again" in history_table(loop.context())


def test_what_another_loop_of_the_tag_tried_counts_if_scores_compare(make_loop) -> None:  # noqa: F811
    loop = make_loop(lambda experiment, spec: result(spec, 1.5))
    asyncio.run(loop.start())
    other = replace(loop.branch, name="autoresearch/mar8-gpu1", loop=1)
    for branch, number in ((other, 2), (replace(other, name="autoresearch/mar8-gpu2", platform="another"), 3)):
        loop.store.add_branch(branch)
        experiment = tried(make_record(number), TRAIN_PY.replace("DEPTH = 2", f"DEPTH = {number + 5}")).experiment
        loop.store.add_experiment(replace(experiment, branch=branch.name))
    context = loop.context()
    assert "e0002" in (reason_not_to_run(TRAIN_PY.replace("DEPTH = 2", "DEPTH = 7"), context) or "")
    assert reason_not_to_run(TRAIN_PY.replace("DEPTH = 2", "DEPTH = 8"), context) is None


def test_search_passes_over_what_another_loop_has_tried() -> None:
    first = asyncio.run(SearchResearcher().propose(make_context()))
    elsewhere = tried(make_record(1), first.train_py, branch="autoresearch/test-gpu1")
    second = asyncio.run(SearchResearcher().propose(make_context(programs=programs_tried([elsewhere]))))
    assert second.train_py != first.train_py


def test_a_prepared_proposal_that_another_loop_tried_meanwhile_is_refused(make_loop) -> None:  # noqa: F811
    steps = [Step(title=f"depth {depth}", constants={"DEPTH": depth}) for depth in (3, 4, 5)]

    async def steps_of() -> tuple[str, tuple[Refusal, ...]]:
        loop = proposing_agent(make_loop(lambda experiment, spec: result(spec, 1.5)), *steps)
        await loop.start()
        await loop.step()
        while loop._proposer.prepared is None:
            await asyncio.sleep(0.001)
        loop.store.add_branch(replace(loop.branch, name="autoresearch/mar8-gpu1", loop=1))
        theirs = tried(make_record(1), TRAIN_PY.replace("DEPTH = 2", "DEPTH = 4")).experiment
        loop.store.add_experiment(replace(theirs, branch="autoresearch/mar8-gpu1"))
        record = await loop.step()
        await loop.close()
        return record.experiment.title, loop.context().refused

    title, refused = asyncio.run(steps_of())
    assert title == "depth 5" and [refusal.title for refusal in refused] == ["depth 4"]


def test_a_person_may_run_it_again_as_a_replicate(make_loop) -> None:  # noqa: F811
    """The runs of one experiment are decided together, those of the baseline too."""
    scores = {"deep": [1.2, 1.6]}
    seeds: list[int] = []

    def tell(experiment, spec):
        seeds.append(spec.seed)
        return result(spec, scores[experiment.title].pop(0) if experiment.title in scores else 1.25)

    def proposal(title: str, depth: int) -> Proposal:
        text = TRAIN_PY.replace("DEPTH = 2", f"DEPTH = {depth}")
        return Proposal(title=title, hypothesis="", train_py=text, researcher="you")

    async def tries() -> None:
        loop = make_loop(tell)
        await loop.start()
        deep = await loop.try_now(proposal("deep", 3))
        assert decision(deep) == "keep" and loop.worktree.head() == deep.experiment.commit
        again = await loop.try_again(deep, proposal("deep", 3))  # it is the head: its score becomes the mean
        assert again.experiment.id == deep.experiment.id and len(again.runs) == 2
        assert loop.head().mean == pytest.approx(1.4) and decision(again) == "keep"
        baseline = loop._decisions.baseline()
        measured = await loop.try_again(baseline, replace(proposal("back", 2), train_py=TRAIN_PY))
        assert measured.experiment.id == baseline.experiment.id and len(measured.runs) == len(baseline.runs) + 1

    asyncio.run(tries())
    assert len(set(seeds)) > 2


def test_what_a_person_would_execute_by_hand_stays_as_it_is() -> None:
    """`uv run research/train.py` executes what stands before the guard, as the user."""
    shipped = (research_folder() / "train.py").read_text()
    context = replace(make_context(), train_py=shipped)
    assert reason_not_to_run(write_constants(shipped, {"EMBEDDING_LR": 0.123}), context) is None
    for edit in (
        shipped.replace("\nif __name__", "\nprint()\n\nif __name__", 1),
        shipped.replace("    from research.run", "    print()\n    from research.run", 1),
        shipped.replace('if __name__ == "__main__":', "if print():", 1),
        "import gc" + shipped.partition("import gc")[2],
    ):
        assert edit != shipped and reason_not_to_run(edit, context) is not None
    assert "guard" in (reason_not_to_run(shipped.replace("\nif __name__", "\nprint()\n\nif __name__", 1), context) or "")
    free = replace(context, train_py="import gc" + shipped.partition("import gc")[2])
    assert reason_not_to_run(f"{free.train_py}\nX = 1\n", free) is None, "a user's own file may do without"


def test_a_discard_that_is_run_again_is_decided_on_all_its_runs(make_loop) -> None:  # noqa: F811
    scores = [1.505, 1.45]

    def tell(experiment, spec):
        return result(spec, 1.5 if experiment.kind == "baseline" else scores.pop(0))

    async def tries() -> Worktree:
        loop = make_loop(tell)
        await loop.start()
        proposal = Proposal(title="deep", hypothesis="", train_py=DEEP, researcher="you")
        first = await loop.try_now(proposal)
        assert decision(first) == "discard"
        again = await loop.try_again(first, proposal)
        assert decision(again) == "keep" and again.val_bpb == pytest.approx(1.4775)
        assert loop.worktree.head() == first.experiment.commit
        return loop.worktree

    asyncio.run(tries())


def decision(record: ExperimentRecord) -> str:
    assert record.verdict is not None
    return record.verdict.decision


def test_a_script_is_a_persons_list_and_is_played_whole(make_loop) -> None:  # noqa: F811
    step = Step(title="deep", constants={"DEPTH": 3})

    async def numbers() -> list[int]:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5))
        loop._proposer._researcher = ScriptedResearcher([step, step])
        await loop.start()
        records = [await loop.step() for _ in range(2)]
        await loop.close()
        return [record.experiment.number for record in records]

    assert asyncio.run(numbers()) == [1, 2]
