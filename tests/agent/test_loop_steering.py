"""Loops take up what people tell them: a suggestion by one loop that can read, a pause, a new program.md, and a plateau."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.loop import ResearchLoop
from agent.loop_steering import GroupSuggestions, LoopPaused, LoopSteering
from agent.researcher import Context, Guidance
from agent.researchers.command_run import PROMPT, prompt_of
from agent.researchers.history_text import guidance_text
from agent.researchers.mix import reads_text
from results.experiment import Decision, Proposal, Verdict
from results.history import read_history
from results.steering import PLATEAU, POLICY, Suggestion, add_suggestion, close_suggestion, set_paused, suggestions_of
from results.store import Store
from tests.agent.samples import make_context
from tests.agent.shared_lab import EFFECTS, GROUP, SharedLab
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, make_branch, make_experiment

ONE, TWO = f"{GROUP}-cpu0", f"{GROUP}-cpu1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(with_tables(tmp_path / "home")) as opened:
        yield opened


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedLab]:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    made = SharedLab(tmp_path, loops=1)
    yield made
    made.store.close()


class Reader:
    """A researcher that reads: it keeps what it was told, and tries the constants in order."""

    name = "reader"

    def __init__(self) -> None:
        self.told: list[Guidance] = []

    async def propose(self, context: Context) -> Proposal:
        self.told.append(context.guidance)
        name = list(EFFECTS)[len(self.told) - 1]
        text = context.train_py.replace(f"{name} = 0", f"{name} = 1")
        return Proposal(title=name, hypothesis="why not", train_py=text, researcher=self.name)

    async def close(self) -> None:
        pass


def reading_loop(lab: SharedLab, reader: Reader) -> ResearchLoop:
    (loop,) = lab.open()
    loop._proposer._researcher = reader
    loop.steering._reads_text = True
    return loop


def test_each_suggestion_is_with_one_loop_that_can_read(store: Store) -> None:
    suggestions = GroupSuggestions(store, GROUP)
    for text in ("try X", "try Y"):
        add_suggestion(store, GROUP, text)

    def steering(branch: str, researcher: str) -> LoopSteering:
        return LoopSteering(branch=branch, group=GROUP, researcher=researcher, store=store, suggestions=suggestions,
                            plateau_ideas=20)  # fmt: skip

    def told(loop: LoopSteering) -> str:
        found = loop.guidance().suggestion
        return found.text if found else ""

    one, two, search = steering(ONE, "claude"), steering(TWO, "codex"), steering(f"{GROUP}-cpu2", "search")
    assert [told(loop) for loop in (search, one, two, one)] == ["", "try X", "try Y", "try X"]
    one.release()
    close_suggestion(store, GROUP, 2)
    assert [told(loop) for loop in (two, one)] == ["try X", ""]
    suggestions.followed(1, "mar8-0007")
    assert [told(loop) for loop in (two, one)] == ["", ""]


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        *[(name, False) for name in ("search", "scripted:ideas.jsonl", "mcp", "farm", "you")],
        *[(name, True) for name in ("claude", "codex", "command:sh idea.sh")],
    ],
)
def test_who_reads_text(name: str, reads: bool) -> None:
    assert reads_text(name) == reads


def test_the_prompt_has_a_suggestion_and_a_plateau_only_while_there_is_one() -> None:
    context = make_context()
    assert guidance_text(context) == "" and prompt_of(context) == PROMPT
    suggestion = Suggestion(number=7, text="try {prompt_file} twice")
    told = prompt_of(replace(context, guidance=Guidance(suggestion=suggestion, ideas_without_keep=23)))
    assert told.startswith(PROMPT) and "try {prompt_file} twice" in told and "person" in told
    assert "23 ideas" in told and "structure" in told
    assert "structure" not in prompt_of(replace(context, guidance=Guidance(suggestion=suggestion)))


def test_a_loop_follows_a_suggestion_once_and_says_so(lab: SharedLab) -> None:
    reader = Reader()

    async def research() -> None:
        loop = reading_loop(lab, reader)
        await loop.start()
        add_suggestion(lab.store, GROUP, "try A")
        record = await loop.step()
        assert "try A" in record.experiment.hypothesis and "why not" in record.experiment.hypothesis
        assert [one.experiment for one in suggestions_of(lab.store, GROUP)] == [record.experiment.id]
        while (record := await loop.step()).experiment.kind != "explore":
            pass
        assert "try A" not in record.experiment.hypothesis
        await loop.close()

    asyncio.run(research())
    assert [told.suggestion.text if told.suggestion else None for told in reader.told[:2]] == ["try A", None]


def test_a_pause_while_the_researcher_thinks_keeps_its_proposal(lab: SharedLab) -> None:
    class Pausing(Reader):
        async def propose(self, context: Context) -> Proposal:
            set_paused(lab.store, ONE, True)
            return await super().propose(context)

    reader = Pausing()

    async def research() -> None:
        loop = reading_loop(lab, reader)
        await loop.start()
        count = len(lab.store.records(ONE))
        with pytest.raises(LoopPaused):
            await loop.step()
        assert len(lab.store.records(ONE)) == count and loop.steering.is_paused()
        set_paused(lab.store, ONE, False)
        loop._proposer._researcher = Reader()
        assert (await loop.step()).experiment.title == "A"
        await loop.close()

    asyncio.run(research())
    assert len(reader.told) == 1


def test_a_plateau_is_told_and_recorded_once_and_ends_with_a_keep(store: Store) -> None:
    store.add_branch(make_branch())
    steering = LoopSteering(branch=NAME, group=NAME, researcher="claude", store=store, plateau_ideas=2,
                            suggestions=GroupSuggestions(store, NAME))  # fmt: skip

    def decide(number: int, decision: Decision) -> int:
        experiment = make_experiment(number)
        store.add_experiment(experiment)
        store.add_verdict(experiment.id, Verdict(decision=decision, reason="so"))
        (history,) = read_history(store.home / "journal.jsonl")
        told = steering.guidance().ideas_without_keep
        (after,) = read_history(store.home / "journal.jsonl")
        assert after.group.plateau == told >= history.group.plateau
        return told

    outcomes: list[Decision] = ["discard", "lost", "crash", "discard", "keep", "discard", "invalid"]
    assert [decide(number, decision) for number, decision in enumerate(outcomes, start=1)] == [0, 0, 2, 3, 0, 0, 2]
    assert [event["ideas"] for event in store.events(PLATEAU, NAME)] == [2, 2]


def test_a_new_program_is_recorded_with_the_proposal_that_has_it(lab: SharedLab) -> None:
    async def research() -> None:
        (loop,) = lab.open()
        await loop.start()
        program = loop.settings.program
        for text in ("", "be bold", "be bold", "be careful"):
            program.write_text(text)
            assert loop.context().program == text
        await loop.close()

    asyncio.run(research())
    digests = [event["digest"] for event in lab.store.events(POLICY, GROUP)]
    assert len(digests) == len(set(digests)) == 2
