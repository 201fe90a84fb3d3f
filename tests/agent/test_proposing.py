"""A proposal that fails or is withdrawn is on record, and the next one is asked for; program.md may be any file."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.compare_programs import program_of
from agent.loop_context import read_policy
from agent.proposing import BUDGET_SPENT, REPLACED, Proposer
from agent.researcher import BudgetSpent, Context, NotConfigured, OutOfIdeas, ProposalFailed
from results.experiment import ExperimentRecord, Proposal, Usage
from results.store import Store
from tests.agent.samples import TRAIN_PY, make_context
from tests.results.new_home import with_tables
from tests.results.result_samples import make_experiment

BRANCH = "autoresearch/test"
IDEA = Proposal(
    title="deeper",
    hypothesis="",
    train_py=TRAIN_PY.replace("= 2", "= 3"),
    researcher="told",
    usage=Usage(model="m", cost_usd=0.5, answers=2),
)


class Told:
    """A researcher that proposes or raises what it is told."""

    name = "told"

    def __init__(self, *answers: Proposal | Exception) -> None:
        self.left = list(answers)

    async def propose(self, context: Context) -> Proposal:
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass


class Observer:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        pass

    def on_verdict(self, record: Any) -> None:
        pass

    def on_head_gain(self, group: str, gain: Any) -> None:
        pass

    def on_event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(with_tables(tmp_path / "home")) as opened:
        yield opened


def proposer_of(store: Store, researcher: Told, observer: Observer, program: Path | None = None) -> Proposer:
    def context() -> Context:
        return make_context() if program is None else replace(make_context(), program=read_policy(program))

    return Proposer(branch=BRANCH, researcher=researcher, store=store, observer=observer,
                    context=context, head_train_py=lambda: TRAIN_PY, pauses_s=(0.001, 0.004))  # fmt: skip


def recorded(store: Store, kind: str, *fields: str) -> tuple[tuple[Any, ...], ...]:
    columns = ", ".join(f"record ->> '$.{field}'" for field in fields)
    return store.query(f"SELECT {columns} FROM events WHERE kind = '{kind}' ORDER BY seq").rows


def test_failures_are_recorded_with_their_cost_and_their_pauses_grow_to_a_limit(store: Store) -> None:
    refusal = ProposalFailed("declined", usage=Usage(model="m", cost_usd=0.25, answers=1))
    busy = ProposalFailed("busy", retry_after_s=86_400.0)
    observer = Observer()
    researcher = Told(refusal, refusal, ProposalFailed("no"), busy, IDEA)
    assert asyncio.run(proposer_of(store, researcher, observer).next()) == IDEA
    assert [fields["again_in_s"] for _, fields in observer.events] == [0.001, 0.002, 0.004, 0.004]
    assert recorded(store, "proposal_failed", "branch", "reason", "usage.cost_usd") == (
        (BRANCH, "declined", "0.25"),
        (BRANCH, "declined", "0.25"),
        (BRANCH, "no", None),
        (BRANCH, "busy", None),
    )


@pytest.mark.parametrize("by", ["autoresearch/other", BRANCH])
@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_idea_that_another_loop_has_had_meanwhile_is_replaced_by_another_in_silence(
    store: Store, by: str, is_prepared: bool
) -> None:
    """While the researcher thought, or while its idea lay ready; what the branch itself has tried is said."""
    other, asked = replace(IDEA, title="deeper still", train_py=TRAIN_PY.replace("= 2", "= 4")), [0]
    tried = ExperimentRecord(experiment=make_experiment(7, branch=by), runs=(), verdict=None)
    is_known = asyncio.Event()

    class Both(Told):
        async def propose(self, context: Context) -> Proposal:
            asked[0] += 1
            if not is_prepared:
                is_known.set()
            return await super().propose(context)

    def context() -> Context:
        return replace(make_context(), programs={program_of(IDEA.train_py): tried} if is_known.is_set() else {})

    async def another() -> Proposal:
        proposer = Proposer(branch=BRANCH, researcher=Both(IDEA, other), store=store, observer=observer,
                            context=context, head_train_py=lambda: TRAIN_PY, pauses_s=(0.001, 0.004))  # fmt: skip
        proposer.prepare()
        while is_prepared and proposer.prepared is None:
            await asyncio.sleep(0)
        if is_prepared:
            is_known.set()
        return await proposer.next()

    observer = Observer()
    assert asyncio.run(another()) == other and asked == [2]
    assert bool(observer.events) == (by == BRANCH)
    assert [title for (title,) in recorded(store, "proposal_refused", "title")] == ["deeper"], "its cost is on record"


def test_files_that_a_researcher_changed_in_vain_are_recorded(store: Store) -> None:
    idea = replace(IDEA, discarded=("other.txt", "research/run.py"))
    assert asyncio.run(proposer_of(store, Told(idea), Observer()).next()) == idea
    assert recorded(store, "edits_discarded", "branch", "files[1]") == ((BRANCH, "research/run.py"),)


def test_a_prepared_idea_that_the_end_of_the_loop_drops_is_recorded(store: Store) -> None:
    async def prepare_and_close() -> None:
        proposer = proposer_of(store, Told(IDEA), Observer())
        proposer.prepare()
        while proposer.prepared is None:
            await asyncio.sleep(0)
        await proposer.close()

    asyncio.run(prepare_and_close())
    assert recorded(store, "proposal_withdrawn", "title", "usage.cost_usd") == (("deeper", "0.5"),)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("lower val_bpb, später".encode(), "lower val_bpb, später"),
        ("lower val_bpb, später".encode("latin-1"), "lower val_bpb, später"),
        ("lower val_bpb, später".encode("utf-16"), "lower val_bpb, später"),
        ("lower val_bpb".encode("utf-8-sig"), "lower val_bpb"),
        (b"", ""),
    ],
)
def test_a_policy_in_any_encoding_is_read(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "program.md").write_bytes(data)
    assert read_policy(tmp_path / "program.md") == text


def test_a_policy_of_any_bytes_can_be_sent(tmp_path: Path) -> None:
    for data in (bytes(range(256)), b"\xff\xfea", b"\xfe\xff\xd8\x00"):
        (tmp_path / "program.md").write_bytes(data)
        assert read_policy(tmp_path / "program.md").encode()


def test_without_a_policy_there_is_none(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "program.md") == ""


def test_a_policy_that_cannot_be_read_is_waited_for(store: Store, tmp_path: Path) -> None:
    """A folder in its place stands for any file that can't be read, also for root."""
    program = tmp_path / "program.md"
    program.mkdir()

    class Mending(Observer):
        def on_event(self, kind: str, **fields: Any) -> None:
            super().on_event(kind, **fields)
            program.rmdir()

    observer = Mending()
    assert asyncio.run(proposer_of(store, Told(IDEA), observer, program).next()) == IDEA
    [(kind, fields)] = observer.events
    assert kind == "proposal_failed" and str(program) in fields["reason"]


def test_an_idea_for_a_head_that_moved_while_the_researcher_thought_is_rebased(store: Store) -> None:
    """Whether it was prepared or not; one that conflicts is withdrawn, and another is asked for."""
    heads = [TRAIN_PY]
    faster = TRAIN_PY.replace("0.6", "0.9")

    class Slow(Told):
        async def propose(self, context: Context) -> Proposal:
            answer = await super().propose(context)
            heads.append(faster if context.train_py == TRAIN_PY else context.train_py)
            return answer

    def proposer(*answers: Proposal) -> Proposer:
        return Proposer(branch=BRANCH, researcher=Slow(*answers), store=store, observer=Observer(),
                        context=lambda: make_context(train_py=heads[-1]), head_train_py=lambda: heads[-1],
                        pauses_s=(0.001, 0.004))  # fmt: skip

    found = asyncio.run(proposer(IDEA).next())
    assert found.train_py == faster.replace("= 2", "= 3")
    heads[:] = [TRAIN_PY]
    conflict = replace(IDEA, title="rate", train_py=TRAIN_PY.replace("0.6", "0.7"))
    later = replace(IDEA, train_py=faster.replace("= 2", "= 3"))
    assert asyncio.run(proposer(conflict, later).next()) == later
    assert recorded(store, "proposal_withdrawn", "title") == (("rate",),)


# --- the stopgap ----------------------------------------------------------------------------------------------------------

RATE = replace(IDEA, title="rate", train_py=TRAIN_PY.replace("0.6", "0.9"), researcher="stopgap", usage=Usage())


class Slow(Told):
    """Answers only when it is allowed to."""

    def __init__(self, *answers: Proposal | Exception) -> None:
        super().__init__(*answers)
        self.may_answer = asyncio.Event()

    async def propose(self, context: Context) -> Proposal:
        await self.may_answer.wait()
        return await super().propose(context)


def with_stopgap(store: Store, researcher: Told, stopgap: Told | None, observer: Observer) -> Proposer:
    return Proposer(branch=BRANCH, researcher=researcher, store=store, observer=observer, context=make_context,
                    head_train_py=lambda: TRAIN_PY, stopgap=stopgap, pauses_s=(0.05, 0.05), patience_s=0.02)  # fmt: skip


def test_while_a_researcher_is_slow_or_fails_the_stopgap_has_an_idea_and_nothing_paid_is_lost(store: Store) -> None:
    async def slow() -> list[str]:
        researcher = Slow(IDEA)
        proposer = with_stopgap(store, researcher, Told(RATE, OutOfIdeas()), Observer())
        titles = [(await proposer.next()).title]
        researcher.may_answer.set()
        titles.append((await proposer.next()).title)
        await proposer.close()
        return titles

    async def failing() -> list[str]:
        proposer = with_stopgap(store, Told(ProposalFailed("busy"), IDEA), Told(RATE, OutOfIdeas()), Observer())
        titles = [(await proposer.next()).title, (await proposer.next()).title]
        await proposer.close()
        return titles

    assert asyncio.run(slow()) == asyncio.run(failing()) == ["rate", "deeper"]
    assert recorded(store, "proposal_failed", "reason") == (("busy",),)


def test_a_stopgap_out_of_ideas_or_with_a_repetition_is_no_idea(store: Store) -> None:
    same = replace(RATE, train_py=TRAIN_PY + "# comment\n")
    for left in (OutOfIdeas(), same):
        researcher = Told(ProposalFailed("busy"), IDEA)
        assert asyncio.run(with_stopgap(store, researcher, Told(left), Observer()).next()) == IDEA


@pytest.mark.parametrize("end", [NotConfigured("no key"), BudgetSpent("$5 of $5")])
def test_the_stopgap_goes_on_where_only_a_person_helps_the_researcher(store: Store, end: Exception) -> None:
    observer = Observer()
    proposer = with_stopgap(store, Told(end), Told(RATE), observer)
    assert asyncio.run(proposer.next()) == RATE
    assert recorded(store, REPLACED, "researcher", "reason")[-1] == ("told", str(end))
    spent = [BUDGET_SPENT] if isinstance(end, BudgetSpent) else []
    assert [kind for kind, _ in observer.events] == [*spent, REPLACED]
    with pytest.raises(type(end)):
        asyncio.run(with_stopgap(store, Told(end), None, Observer()).next())
