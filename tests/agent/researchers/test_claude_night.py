"""A night with claude in small: real loops, git, store and SDK, with the stand-in, and a judge that trains nothing."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from agent.loop import ResearchLoop
from agent.researcher import OutOfIdeas
from agent.researchers.budget import Budget
from agent.researchers.claude import ClaudeResearcher
from agent.researchers.claude_prompt import opening, system_of
from agent.researchers.prices import PRICES
from agent.researchers.stand_in.bodies import Reply, as_reply, error_body, message
from agent.researchers.stand_in.edits import EDITOR, Edits
from agent.researchers.stand_in.script import Script, Step
from agent.researchers.stand_in.server import Request, StandIn
from agent.search.search import SearchResearcher
from research.files import research_folder
from research.hyperparameters import literal_text, read_constants
from research.result import RunResult, RunSpec
from results.experiment import Experiment
from results.notes import NOTE
from tests.agent.loops_of_a_group import GROUP, Group
from tests.agent.samples import make_context, make_record

BODY = """

def build_model():
    return None


def train(session):
    session.finish(build_model())
"""
OWN = (research_folder() / "train.py").read_text(encoding="utf-8")
CONSTANTS = "".join(f"{name} = {literal_text(value)}\n" for name, value in read_constants(OWN).items())
SHORT = CONSTANTS + BODY
"""A train.py with the constants of the shipped one, which is checked in less time."""

POLICY = (research_folder().parent / "program.md").read_text(encoding="utf-8")
BRANCHES = tuple(f"{GROUP}-cpu{number}" for number in range(2))

SLOWER = 50.0 if os.environ.get("FARM_FULL_FAULTS") == "1" else 1.0
"""By how much faults, pauses and runs last longer than in the suite: then stalls have 30 s and runs 50, by hand."""

LESSON = "WEIGHT_DECAY matters here: try it at once"
"""A lesson of one loop that the stand-in's model follows where it reads it."""


@dataclass
class Model:
    """The stand-in's model. One loop's notes the lesson in its first answer; whoever is told it tries that first."""

    edits: Edits = field(default_factory=Edits)
    requests: list[dict[str, Any]] = field(default_factory=list)
    usages: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Reply | Step] = field(default_factory=list)
    """What comes instead of every second answer, one after the other."""
    has_noted: bool = False

    def answer(self, request: Request) -> Reply:
        body = dict(request.body)
        self.requests.append(body)
        if self.faults and len(self.requests) % 2 == 0:
            fault = self.faults.pop(0)
            return fault if isinstance(fault, Reply) else Script([fault]).answer(request)
        content, told = self._content(body), str(body["messages"][0])
        usage = self.edits.usage(body, content)
        self.usages.append(usage)
        assert len(told) < 200_000
        return as_reply(200, message(content, "tool_use", usage), stream=True)

    def _content(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        turns = body["messages"]
        if not self.has_noted and f"Branch {BRANCHES[0]}" in str(turns[0]):
            self.has_noted = True
            return [call("note", kind="lesson", text=LESSON)]
        is_told = LESSON in str(turns[0]) and f"Branch {BRANCHES[1]}" in str(turns[0]) and "WEIGHT_DECAY 0" not in str(turns)
        if is_told and len(turns) == 1:
            line = next(line for line in SHORT.split("\n") if line.startswith("WEIGHT_DECAY = "))
            changed = line.replace("= 0", "= 1", 1)
            said = {"type": "text", "text": "Edit: WEIGHT_DECAY by the lesson"}
            return [said, call(EDITOR, command="str_replace", path="train.py", old_str=line, new_str=changed)]
        return self.edits.content(body)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": arguments}


class Night:
    """A group of two loops of claude, and what its one device does."""

    def __init__(self, folder: Path, model: Model, *, train_py: str = SHORT, run_s: float = 0.002, patience_s: float = 20.0,
                 budgets: tuple[Budget, ...] = ()) -> None:  # fmt: skip
        self.group = Group(folder, train_py, lambda train_py: 2.0)
        (self.group.home / "none").write_text(POLICY)
        self.model, self.run_s, self.patience_s, self.budgets = model, run_s, patience_s, budgets
        self.busy: list[tuple[float, float]] = []
        self._device = asyncio.Lock()

    def research(self, experiments: int) -> None:
        """Lets each loop try so many ideas."""
        with StandIn(self.model.answer).running() as stand_in:
            asyncio.run(asyncio.wait_for(self._all(stand_in.url, experiments), 120.0 * SLOWER))

    async def _all(self, url: str, experiments: int) -> None:
        self._device = asyncio.Lock()
        self.group._execute = self._execute  # type: ignore[method-assign]
        await asyncio.gather(*(self._one(loop, url, experiments) for loop in self.group.open((), ())))

    async def _one(self, loop: ResearchLoop, url: str, experiments: int) -> None:
        client = AsyncAnthropic(api_key="x", base_url=url, max_retries=0)
        proposer = loop._proposer
        proposer._researcher = ClaudeResearcher(
            client=client, retry_pause_s=0.01 * SLOWER, inactivity_s=0.3 * SLOWER, budgets=self.budgets
        )
        proposer._stopgap, proposer._patience_s = SearchResearcher(seed=loop.branch.loop), self.patience_s
        await loop.start()
        try:
            while sum(idea.branch == loop.branch.name for idea in self.ideas()) < experiments:
                await loop.step()
        except OutOfIdeas:
            pass
        if proposer._preparing is not None:  # else the last answer would be cut off, and its cost an estimate
            await asyncio.wait({proposer._preparing}, timeout=5.0)
        await loop.close()

    async def _execute(self, experiment: Experiment, train_py: str, spec: RunSpec, report: Any) -> RunResult:
        async with self._device:
            began = time.monotonic()
            await asyncio.sleep(self.run_s)
            self.busy.append((began, time.monotonic()))
        return RunResult(run_id=spec.run_id, status="ok", reason="", seed=spec.seed, device="cpu", val_bpb=score(train_py),
                         num_params=1)  # fmt: skip

    @property
    def busy_share(self) -> float:
        """The share of the time from the first run to the last in which the device was busy."""
        return sum(end - begin for begin, end in self.busy) / (self.busy[-1][1] - self.busy[0][0])

    def ideas(self) -> list[Experiment]:
        records = [record for name in BRANCHES for record in self.group.store.records(name)]
        return [record.experiment for record in records if record.experiment.kind == "explore"]


def score(train_py: str) -> float:
    """A val_bpb that differs from program to program by less than its noise."""
    return 2.0 + (hash(train_py) % 1_000) / 1e7


@contextmanager
def night(folder: Path, model: Model, **options: Any) -> Iterator[Night]:
    made = Night(folder, model, **options)
    try:
        yield made
    finally:
        made.group.store.close()


@pytest.fixture(autouse=True)
def no_git_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


def ledger(usages: list[dict[str, Any]]) -> float:
    """US dollars for what the stand-in has reported, worked out by hand: opus-5-5 costs 4 and 20 per million tokens."""
    assert "claude-opus-5-5" in PRICES
    usd = 0.0
    for usage in usages:
        creation = usage["cache_creation"]
        usd += 4e-6 * usage["input_tokens"] + 20e-6 * usage["output_tokens"] + 0.4e-6 * usage["cache_read_input_tokens"]
        usd += 5e-6 * creation["ephemeral_5m_input_tokens"] + 8e-6 * creation["ephemeral_1h_input_tokens"]
    return usd


def test_two_loops_of_twelve_experiments(tmp_path: Path) -> None:
    model = Model()
    with night(tmp_path, model) as farm:
        farm.research(12)
        ideas = farm.ideas()
        own = [idea for idea in ideas if idea.researcher == "claude"]
        assert len(ideas) == 24 and len(own) >= 11
        assert len({idea.program for idea in ideas}) == len(ideas), "a configuration is repeated"

        (lesson,) = farm.group.store.events(NOTE, GROUP)
        assert (lesson["author"], lesson["text"]) == (BRANCHES[0], LESSON)
        assert any(idea.branch == BRANCHES[1] and "WEIGHT_DECAY" in idea.changes for idea in own)

        spent = farm.group.store.spent_usd("mar8")
        assert spent == pytest.approx(ledger(model.usages), rel=1e-9)
        rows = farm.group.store.query("SELECT count(*), count(experiment), min(seconds) FROM costs", audience="person").rows
        ((answers, linked, seconds),) = rows
        assert answers == len(model.usages) and linked >= 2 * len(own) and seconds > 0


def test_a_prompt_of_a_long_history_is_hardly_longer_than_that_of_the_fifth_idea() -> None:
    def length(number: int) -> int:
        titles = ("MATRIX_LR 0.04 -> 0.05", "one more value head for each of the layers", "DEPTH 8 -> 9")
        records = tuple(make_record(n, decision="keep" if n % 9 == 0 else "crash" if n % 7 == 0 else "discard",
                                    title=titles[n % 3]) for n in range(number))  # fmt: skip
        context = make_context(records, OWN, others=records, near_misses=records[-40:], lineage=records[-12:], program=POLICY)
        return len(json.dumps([system_of(context), opening(context, None)]))

    assert length(5_000) <= 1.25 * length(5) and length(5_000) <= 1.01 * length(500)


def test_most_of_what_is_sent_is_read_from_the_cache(tmp_path: Path) -> None:
    model = Model()
    with night(tmp_path, model, train_py=OWN) as farm:
        farm.research(5)
    assert len(model.usages) >= 20
    counted = [(usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"] + usage["input_tokens"])
               for usage in model.usages[1:20]]  # fmt: skip
    read, others = (sum(column) for column in zip(*counted, strict=True))
    assert read / (read + others) >= 0.7


FAULTS: tuple[Reply | Step, ...] = (
    *(as_reply(429, error_body(429, "slow down"), headers={"retry-after": f"{0.02 * SLOWER:g}"}) for _ in range(3)),
    as_reply(529, error_body(529, "overloaded")),
    Step(text="hm", cut=0.4),
    Step(text="hm", stall_s=0.6 * SLOWER),
    as_reply(500, error_body(500, "oops")),
    *(Step(stop_reason=reason) for reason in ("refusal", "model_context_window_exceeded")),
    *(Step(text="hm", stop_reason=reason) for reason in ("max_tokens", "pause_turn", "end_turn", "stop_sequence")),
    Step(content=(call(EDITOR, command="create", path="../judge.py", file_text="x = 1\n"),)),
    Step(content=(call(EDITOR, command="create", path="train.py", file_text="x = 1\n" * 350_000),)),
    Step(content=({"type": "tool_use", "id": "t", "name": EDITOR, "input": {"command": ["view"]}},)),
    Step(content=({"type": "tool_use", "id": "t", "name": "rm", "input": {}},)),
    Step(content=(call("submit", title="again", hypothesis="it was so good"),)),
)


def test_faults_neither_stop_the_loops_nor_leave_the_device_idle(tmp_path: Path) -> None:
    model = Model(faults=list(FAULTS))
    with night(tmp_path, model, run_s=1.0 * SLOWER, patience_s=0.05 * SLOWER, budgets=(Budget(20.0),)) as farm:
        farm.research(9)
        assert not model.faults, "each fault has come"
        ideas = farm.ideas()
        assert len(ideas) == 18 and len({idea.program for idea in ideas}) == 18
        assert farm.busy_share >= 0.9
        rows = farm.group.store.query("SELECT cost_usd, estimated FROM costs", audience="person").rows
        broken = [usd for usd, estimated in rows if estimated]
        assert len(broken) <= 3 and all(usd < 0.2 for usd in broken), "answers that broke off or told nothing"
        refused = [event for name in BRANCHES for event in farm.group.store.events("proposal_failed", name)]
        assert all("\n" not in event["reason"] for event in refused)
